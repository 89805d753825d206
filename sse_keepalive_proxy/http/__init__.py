"""HTTP/1.1 with clients and with upstreams. This package knows neither routes nor streams."""
