CREATE EXTENSION pgcrypto;

CREATE TABLE accounts (
    address text PRIMARY KEY
        CHECK (address ~ '^[a-z0-9!#$%&''*/=?^_`{|}~-]+(\.[a-z0-9!#$%&''*/=?^_`{|}~-]+)*@[a-z0-9.-]+$' AND length(split_part(address, '@', 1)) <= 64),
    password text NOT NULL CHECK (password ~ '^(\{BLF-CRYPT\})?\$2[aby]\$'),
    quota bigint CHECK (quota > 0)
);

COMMENT ON COLUMN accounts.address IS 'the mail address, in lower case, which is the login name too';

COMMENT ON COLUMN accounts.password IS 'a bcrypt hash: crypt(''secret'', gen_salt(''bf''))';

COMMENT ON COLUMN accounts.quota IS 'what the mailbox may hold, in octets; NULL for no limit';

REVOKE ALL ON SCHEMA public FROM PUBLIC;

REVOKE CONNECT, TEMPORARY ON DATABASE accounts FROM PUBLIC;

GRANT CONNECT ON DATABASE accounts TO lookup;

GRANT USAGE ON SCHEMA public TO lookup;

GRANT SELECT ON accounts TO lookup;
