-- The accounts. Addresses are in lower case, and are login names too; passwords are bcrypt hashes; quotas are octets, NULL for no limit.
-- A rollback journal, not a write-ahead log: readers of the latter write into a file of their own, and the servers have this folder read-only.
PRAGMA journal_mode = DELETE;
CREATE TABLE IF NOT EXISTS accounts (
    address TEXT PRIMARY KEY NOT NULL
        CHECK (address LIKE '_%@_%' AND address NOT LIKE '%@%@%' AND address NOT GLOB '*[^a-z0-9!#$%&''*/=?^_`{|}~@.-]*' AND address NOT GLOB '.*'
               AND address NOT GLOB '*..*' AND address NOT GLOB '*.@*' AND address NOT GLOB '*@.*' AND instr(address, '@') <= 65),
    password TEXT NOT NULL CHECK (password GLOB '$2[aby]$*' OR password GLOB '{BLF-CRYPT}$2[aby]$*'),
    quota INTEGER CHECK (quota > 0)
) WITHOUT ROWID;
