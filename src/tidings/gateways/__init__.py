"""Gateways: each translates one client protocol to inputs and effects; no rule of delivery lives here."""
