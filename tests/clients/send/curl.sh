# curl, STARTTLS or TLS from the first octet.
cat >curlrc <<EOF
user = "$user:$password"
cacert = "$ca"
silent
show-error
ssl-reqd
mail-from = "$user"
mail-rcpt = "$to"
EOF
[ "$port" = 465 ] && scheme=smtps || scheme=smtp
curl --config curlrc --upload-file message "$scheme://$host:$port"
