# curl: looks for a message by its subject, and fetches what was found. With nothing found the last command has nothing to fetch, and fails.
cat >curlrc <<EOF
user = "$user:$password"
cacert = "$ca"
silent
show-error
EOF
found=$(curl --config curlrc --request "UID SEARCH SUBJECT \"$subject\"" "imaps://$host/INBOX" | tr -dc 0-9)
curl --config curlrc "imaps://$host/INBOX;UID=$found"
