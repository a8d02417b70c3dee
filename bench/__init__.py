"""How fast stackctl is, always beside something that tells how fast it could be. It changes nothing that it has not made."""
