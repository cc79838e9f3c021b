"""The server's half of the exchange: who may connect, what is asked, and the door to clients."""
