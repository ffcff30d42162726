"""What crosses a boundary: envelopes and answers on Redis, frames between daemon and party processes."""
