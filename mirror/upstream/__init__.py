"""The other registry: connections, logins, redirects, retries. Before it: `content`, which asks for bytes."""
