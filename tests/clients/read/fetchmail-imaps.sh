# fetchmail by IMAP, into a program instead of a local MTA.
cat >.fetchmailrc <<EOF
set no syslog
poll $host protocol IMAP service 993 user "$user" password "$password" ssl sslcertck sslcertfile "$ca" sslcertpath "$PWD/none" no rewrite fetchall $keep mda "cat >>$PWD/mail"
EOF
fetchmail --nodetach && cat mail
