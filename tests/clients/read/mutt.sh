# mutt at a terminal that types by itself: opens the mailbox, hands the first message to a program and leaves.
cat >muttrc <<EOF
set imap_user="$user" imap_pass="$password" ssl_ca_certificates_file="$ca" ssl_force_tls=yes
set folder="imaps://$host" spoolfile="imaps://$host/INBOX" wait_key=no quit=yes mark_old=no
set header_cache="" tmpdir="$PWD" certificate_file="$PWD/none"
push "<pipe-message>cat >seen<enter><exit>"
EOF
# Where mutt asks whether a certificate is good, "q" is the answer that refuses it; it takes no answer given beforehand.
until [ -e over ]; do printf q; sleep 0.2; done | {
    TERM=xterm timeout 20 script --quiet --return --command "stty rows 24 cols 80; mutt -n -F muttrc" screen >/dev/null; touch over
}
cat seen || { cat screen; exit 1; }
