# getmail by IMAP, into a program that takes its time: getmail 6.19 waits a minute in vain for one that ends before it has begun to wait.
mkdir -p .config/getmail
[ "$keep" = keep ] && delete=false || delete=true
cat >.config/getmail/getmailrc <<EOF
[retriever]
type = SimpleIMAPSSLRetriever
server = $host
username = $user
password = $password
ca_certs = $ca
ssl_cert_hostname = $host
[destination]
type = MDA_external
path = /bin/sh
arguments = ("-c", "cat >>$PWD/mail; sleep 0.3")
[options]
delete = $delete
delivered_to = false
received = false
EOF
getmail && cat mail
