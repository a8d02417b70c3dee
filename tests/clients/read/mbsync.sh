# mbsync (isync): every folder into a Maildir, twice; what the second run transfers is at the end.
cat >mbsyncrc <<EOF
IMAPStore far
Host $host
Port 993
TLSType IMAPS
User $user
Pass $password
SystemCertificates no
CertificateFile $ca

MaildirStore near
Path $PWD/mail/
Inbox $PWD/mail/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Near
Sync All
SyncState *
EOF
mkdir mail
mbsync --config mbsyncrc --all && cat mail/*/new/* mail/*/cur/* 2>/dev/null; ls -d mail/*
mbsync --config mbsyncrc --all
