# fetchmail by POP3, into a program instead of a local MTA.
cat >.fetchmailrc <<EOF
set no syslog
poll $host protocol POP3 service 995 user "$user" password "$password" ssl sslcertck sslcertfile "$ca" sslcertpath "$PWD/none" no rewrite fetchall $keep mda "cat >>$PWD/mail"
EOF
fetchmail --nodetach && cat mail
