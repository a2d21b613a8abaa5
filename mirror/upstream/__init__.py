"""The other registry: connections, logins, redirects, retries. Before it: `content`, which asks for bytes.

factory        configuration -> the client of every upstream
client         what the rest of the program asks; how much at once, and retries
endpoints      which endpoint is asked, and when the next one is
manifests, blobs, tags, referrers      what is asked of one endpoint
exchange       one question to one endpoint, with its login and redirects
login -> auth, challenge, pull_secret  who we are there
guests         who we are where it redirects to: nobody
token_service -> realm, tokens         what both ask for tokens
transport -> guard, proxy, tls         one request on the wire
body           what comes back
"""

from mirror.upstream.factory import Upstreams, open_upstreams

__all__ = ["Upstreams", "open_upstreams"]
