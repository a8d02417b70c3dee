# mutt in batch mode, which writes the header itself.
[ "$port" = 465 ] && scheme=smtps || scheme=smtp
cat >muttrc <<EOF
set smtp_url="$scheme://$user@$host:$port" smtp_pass="$password" ssl_ca_certificates_file="$ca" ssl_force_tls=yes
set tmpdir="$PWD" certificate_file="$PWD/none" from="$user" use_envelope_from=yes copy=no
EOF
sed '1,/^\r*$/d' message | mutt -n -F muttrc -s "$subject" -- "$to"
