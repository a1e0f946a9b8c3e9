"""HTTP for signaling: connections, admission of requests, forms, pages and problems."""
