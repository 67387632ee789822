"""A requests session, and no AWS SDK."""

import requests

session = requests.Session()
