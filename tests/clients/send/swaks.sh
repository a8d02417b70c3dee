# swaks, with the password in its own file.
[ "$port" = 465 ] && tls=tls-on-connect || tls=tls
cat >swaksrc <<EOF
server $host
port $port
$tls
tls-verify
tls-ca-path $ca
auth PLAIN
auth-user $user
auth-password $password
from $user
to $to
data @$PWD/message
EOF
swaks --config swaksrc
