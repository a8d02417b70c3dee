# curl: the first message of a POP3 mailbox.
cat >curlrc <<EOF
user = "$user:$password"
cacert = "$ca"
silent
show-error
EOF
curl --config curlrc "pop3s://$host/1"
