"""Clients of mail servers, on the standard libraries, with everything that goes over the wire recorded. The only part that opens sockets to servers."""
