"""Sends messages by requests, as node/adapters.mjs does by others."""

import json
import sys
import threading

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry


def send(url, text):
    # By default it retries nothing, and urllib3's Retry no POST and no status.
    retry = Retry(total=3, backoff_factor=0.5, allowed_methods=None, status_forcelist=[429, 500, 502, 503, 504])
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", HTTPAdapter(max_retries=retry))
        session.post(url, json={"text": text}).raise_for_status()


writing = threading.Lock()


def answer(message):
    ok, said = True, ""
    try:
        send(message["url"], message["text"])
    except requests.RequestException as error:
        ok, said = False, str(error)
    with writing:
        print(json.dumps({"id": message["id"], "ok": ok, "said": said[:300]}), flush=True)


for line in sys.stdin:
    threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()
