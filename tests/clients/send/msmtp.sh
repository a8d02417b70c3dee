# msmtp, as a sendmail program.
[ "$port" = 465 ] && starttls=off || starttls=on
cat >msmtprc <<EOF
account default
host $host
port $port
tls on
tls_starttls $starttls
tls_trust_file $ca
auth plain
user $user
password "$password"
from $user
EOF
msmtp --file=msmtprc -- "$to" <message
