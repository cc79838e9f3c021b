"""The one place where both parties may be imported: whole journeys on one machine."""
