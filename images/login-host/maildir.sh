# Whose mail comes into a Maildir finds it with `mail` and `mutt` alone.
if [ -d "$HOME/Maildir" ]; then MAIL=$HOME/Maildir; export MAIL; fi
