#!/usr/bin/env python3
"""Bring Open WebUI's own objects to the declared state: hook function, users, groups, model, clients.

    open_webui.py plan     prints {"reachable": bool, "differences": ["one sentence each", ...]}, changes nothing
    open_webui.py apply    repairs exactly those differences, prints each, exits 1 with one sentence on failure

Runs on the host with nothing but Python's standard library. The declaration (no secrets) is
/etc/memory-droplet/open-webui/provision.json or the file that OPEN_WEBUI_PROVISION names; secrets are read
from files and appear in no output. Behaviour of the API as of Open WebUI 0.12.4.
"""

import hashlib
import hmac
import json
import os
import secrets
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

DECLARATION = "/etc/memory-droplet/open-webui/provision.json"
TIMEOUT_S = 30
EVERYONE = {"principal_type": "user", "principal_id": "*", "permission": "read"}


class Failure(Exception):
    """Something a person has to fix; the text is one sentence that says what."""


class Unreachable(Exception):
    """Nothing answers there (yet)."""


class Api:
    """JSON over HTTP with a bearer token. Errors name the call, never its body."""

    def __init__(self, name, url, log_command, token=""):
        self.name = name
        self.log_command = log_command
        self.url = url.rstrip("/")
        self.token = token
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method, path, body=None):
        """(status, decoded body or None). Raises Unreachable when nothing answers."""
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as response:
                status, raw = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, raw = error.code, error.read()
        except (OSError, urllib.error.URLError) as error:
            reason = type(error).__name__
            raise Unreachable(
                f"{self.name} does not answer at {self.url} ({reason}); see: {self.log_command}"
            ) from None
        try:
            return status, json.loads(raw)
        except ValueError:
            return status, None

    def must(self, method, path, body=None):
        """The decoded body of a 2xx answer; raises Failure for any other."""
        status, answer = self.call(method, path, body)
        if 200 <= status < 300:
            return answer
        detail = answer.get("detail") if isinstance(answer, dict) else None
        reason = f" ({detail[:120]})" if isinstance(detail, str) else ""
        raise Failure(f"{self.name} answered {status} to {method} {path.split('?')[0]}{reason}.")


class Session:
    """What is kept between runs, so that a run signs in only when it must (15 sign-ins per 3 minutes are
    allowed): the admin's token, and keyed digests of the passwords last set."""

    def __init__(self, path):
        self.path = Path(path)
        try:
            kept = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            kept = {}
        self.kept = kept if isinstance(kept, dict) else {}
        self.kept.setdefault("salt", secrets.token_hex(32))
        self.kept.setdefault("passwords", {})

    def knows(self, email, password):
        """Whether that password was the last one seen to work for that address."""
        digest = self.kept["passwords"].get(email, "")
        return hmac.compare_digest(digest, self._digest(email, password))

    def learn(self, email, password):
        self.kept["passwords"][email] = self._digest(email, password)
        self.save()

    def save(self):
        write_private(self.path, json.dumps(self.kept))

    def _digest(self, email, password):
        key = bytes.fromhex(self.kept["salt"])
        return hmac.new(key, f"{email}\n{password}".encode(), hashlib.sha256).hexdigest()


def write_private(path, text):
    """Replace a file; readable by root alone from its first byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    aside.replace(path)


class Provisioning:
    """Compares step by step. `differs` notes a difference and says whether it is to be repaired now, so
    that plan and apply are the same code and cannot disagree."""

    def __init__(self, declaration, applying):
        self.want = declaration
        self.applying = applying
        self.differences = []
        self.api = Api("Open WebUI", declaration["url"], "docker logs --tail 50 open-webui")
        self.state_dir = Path(declaration["state_dir"])
        self.session = Session(self.state_dir / "provision-session.json")

    def differs(self, sentence):
        self.differences.append(sentence)
        if self.applying:
            print(sentence, flush=True)
        return self.applying

    def secret(self, name):
        path = Path(self.want["secrets_dir"]) / name
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            raise Failure(f"the secret file {path} is missing; deploy Open WebUI again.") from None

    def run(self):
        """Every step, in the order in which they depend on each other."""
        status, _ = self.api.call("GET", "/ready")
        if status != 200:
            raise Unreachable(
                f"Open WebUI is not ready at {self.api.url} (HTTP {status}); see: {self.api.log_command}"
            )
        self.sign_in()
        self.function()
        self.model()
        ids = {client["id"]: self.user(client) for client in self.want["clients"]}
        self.groups(ids)
        numbers = self.memory_clients(ids)
        self.record(ids, numbers)

    # -- admin ----------------------------------------------------------------------------------------

    def sign_in(self):
        admin, password = self.want["admin"], self.secret("admin_password")
        email = admin["email"].lower()
        self.api.token = self.session.kept.get("token", "")
        me = self._whoami() if self.api.token else None
        if me is None or me.get("email") != email or not self.session.knows(email, password):
            signed_in = self._sign_in_with(email, password)
            if signed_in:
                me = self._whoami()
            elif me is None or me.get("email") != email:
                raise Failure(
                    f"Open WebUI refuses the admin password of the secret store for {email}; sign in with the old "
                    "password and set the stored one (openwebui_admin_password) under Settings > Account."
                )
            elif self.differs(f"the password of the admin {email} is not the one in the secret store"):
                self.api.must("POST", f"/api/v1/users/{me['id']}/update", {"password": password})
                if not self._sign_in_with(email, password):
                    raise Failure(f"Open WebUI took a new password for {email} but refuses it at sign-in.")
        if me is None or me.get("role") != "admin":
            raise Failure(f"{email} is not an admin of Open WebUI; give the account the role admin there.")

    def _whoami(self):
        status, answer = self.api.call("GET", "/api/v1/auths/")
        return answer if status == 200 and isinstance(answer, dict) else None

    def _sign_in_with(self, email, password):
        kept, self.api.token = self.api.token, ""
        status, answer = self.api.call("POST", "/api/v1/auths/signin", {"email": email, "password": password})
        self.api.token = kept
        if status == 429:
            raise Failure("Open WebUI allows no more sign-ins for 3 minutes (HTTP 429); run again after that.")
        if status != 200 or not isinstance(answer, dict) or not answer.get("token"):
            return False
        self.api.token = self.session.kept["token"] = answer["token"]
        self.session.learn(email, password)
        return True

    # -- the hook -------------------------------------------------------------------------------------

    def function(self):
        want = self.want["function"]
        name, path = want["id"], f"/api/v1/functions/id/{want['id']}"
        content = Path(want["file"]).read_bytes().decode()
        body = {
            "id": name,
            "name": want["name"],
            "content": content,
            "meta": {"description": want["description"], "manifest": {}},
        }
        status, live = self.api.call("GET", path)  # absent is 401 with a valid token, not 404
        if status != 200 or not isinstance(live, dict):
            live = {}
            if self.differs(f"the function {name} does not exist"):
                self.api.must("POST", "/api/v1/functions/create", body)
        else:
            stale = []
            if live.get("content") != content:
                stale.append("code")
            if live.get("name") != want["name"]:
                stale.append("name")
            if (live.get("meta") or {}).get("description") != want["description"]:
                stale.append("description")
            if stale and self.differs(f"the {' and the '.join(stale)} of the function {name} differs"):
                self.api.must("POST", f"{path}/update", body)
        self._valves(path, name, dict(want["valves"], token=self.secret("webhook_token")), bool(live))
        if not live.get("is_active") and self.differs(f"the function {name} is not active"):
            self._flip(path, "toggle", "is_active")
        if not live.get("is_global") and self.differs(f"the function {name} is not global"):
            self._flip(path, "toggle/global", "is_global")

    def _valves(self, path, name, want, exists):
        status, found = self.api.call("GET", f"{path}/valves") if exists else (200, {})
        live = found if status == 200 and isinstance(found, dict) else {}
        changed = []
        if not live:
            changed.append("none is set")
        for key in sorted(want.keys() | live.keys()) if live else ():
            if live.get(key) == want.get(key) and (key in live) == (key in want):
                continue
            if key == "token":
                changed.append("token differs")
            elif key not in want:
                changed.append(f"{key} is {live[key]!r}, wanted its default")
            else:
                changed.append(f"{key} is {live.get(key)!r}, wanted {want[key]!r}")
        if changed and self.differs(f"valves of the function {name}: {'; '.join(changed)}"):
            self.api.must("POST", f"{path}/valves/update", want)

    def _flip(self, path, action, key):
        # The API flips instead of setting: read again right before.
        if not self.api.must("GET", path).get(key):
            answer = self.api.must("POST", f"{path}/{action}")
            if not answer.get(key):
                raise Failure(f"Open WebUI did not keep {key} of {path.rsplit('/', 1)[1]} after {action}.")

    # -- the model that plain users see ---------------------------------------------------------------

    def model(self):
        want = self.want["model"]
        body = {
            "id": want["id"],
            "base_model_id": None,
            "name": want["name"],
            "meta": {"description": want["description"]},
            "params": {},
            "access_grants": [EVERYONE],
            "is_active": True,
        }
        query = urllib.parse.urlencode({"id": want["id"]})
        status, live = self.api.call("GET", f"/api/v1/models/model?{query}")
        if status != 200 or not isinstance(live, dict):
            if self.differs(f"the model record {want['id']} does not exist"):
                self.api.must("POST", "/api/v1/models/create", body)
            return
        stale = []
        if live.get("name") != want["name"]:
            stale.append(f"its name is {live.get('name')!r}")
        if not live.get("is_active"):
            stale.append("it is switched off")
        if stale and self.differs(f"the model record {want['id']}: {'; '.join(stale)}"):
            keep = {key: live.get(key) for key in ("base_model_id", "meta", "params", "access_grants")}
            self.api.must("POST", "/api/v1/models/model/update", {**body, **keep})
        grants = live.get("access_grants") or []
        public = any(all(grant.get(key) == value for key, value in EVERYONE.items()) for grant in grants)
        if not public and self.differs(f"the model {want['id']} is not readable by every user"):
            kept = [
                {key: grant.get(key) for key in EVERYONE}
                for grant in grants
            ]
            self.api.must(
                "POST",
                "/api/v1/models/model/access/update",
                {"id": want["id"], "name": want["name"], "access_grants": [*kept, EVERYONE]},
            )

    # -- clients: user, groups, profile ---------------------------------------------------------------

    def user(self, client):
        """The client's user, whose id the server chose; "" while it does not exist (plan only)."""
        email, password = client["email"].lower(), self.secret("client_password")
        live = self._find_user(email)
        if live is None:
            if not self.differs(f"the user {email} does not exist"):
                return ""
            body = {"name": client["name"], "email": email, "password": password, "role": "user"}
            user_id = self.api.must("POST", "/api/v1/auths/add", body)["id"]
            self.session.learn(email, password)
            return user_id
        stale = []
        if live.get("name") != client["name"]:
            stale.append(f"is named {live.get('name')!r}, wanted {client['name']!r}")
        if live.get("role") not in ("user", "admin"):
            stale.append(f"has the role {live.get('role')!r}, wanted 'user'")
        if stale and self.differs(f"the user {email} {' and '.join(stale)}"):
            role = live["role"] if live.get("role") == "admin" else "user"
            self.api.must("POST", f"/api/v1/users/{live['id']}/update", {"name": client["name"], "role": role})
        if not self.session.knows(email, password) and self.differs(
            f"the password of the user {email} is not known to be the one in the secret store"
        ):
            self.api.must("POST", f"/api/v1/users/{live['id']}/update", {"password": password})
            self.session.learn(email, password)
        return live["id"]

    def _find_user(self, email):
        query = urllib.parse.urlencode({"query": email})
        for user in self.api.must("GET", f"/api/v1/users/?{query}")["users"]:
            if user.get("email", "").lower() == email:
                return user
        return None

    def groups(self, ids):
        live = {group["name"]: group for group in self.api.must("GET", "/api/v1/groups/")}
        wanted = {}
        for client in self.want["clients"]:
            for name in dict.fromkeys([client["group"], *client["tags"]]):
                if not name:
                    continue  # no group was declared
                wanted.setdefault(name, []).append(client)
        for name, members in wanted.items():
            group = live.get(name)
            if group is None and self.differs(f"the group {name} does not exist"):
                group = self.api.must(
                    "POST", "/api/v1/groups/create", {"name": name, "description": "Clients of the memory service"}
                )
            present = set()
            if group is not None:
                present = set(self.api.must("GET", f"/api/v1/groups/id/{group['id']}/export").get("user_ids") or [])
            for client in members:
                user_id = ids[client["id"]]
                if user_id in present and user_id:
                    continue
                if self.differs(f"the user {client['email'].lower()} is not in the group {name}"):
                    self.api.must("POST", f"/api/v1/groups/id/{group['id']}/users/add", {"user_ids": [user_id]})

    def memory_clients(self, ids):
        """The clients' rows in the memory service; their numbers by client id."""
        service = Api(
            "the memory service",
            self.want["memory_service_url"],
            "journalctl -u memory-service -n 50",
            self.secret("memory_admin_token"),
        )
        numbers = {}
        for client in self.want["clients"]:
            want = {"full_name": client["name"], "email": client["email"].lower(), "tags": client["tags"]}
            user_id = ids[client["id"]]
            live = {}
            if user_id:
                status, answer = service.call("GET", f"/v1/clients/{user_id}")
                if status == 200 and isinstance(answer, dict):
                    live = answer
                elif status != 404:
                    raise Failure(f"the memory service answered {status} to GET /v1/clients/{client['id']}.")
            if not live:
                if self.differs(f"the memory service has no profile of {client['id']}"):
                    live = service.must("PUT", f"/v1/clients/{user_id}", want)
            else:
                stale = [key for key in want if not same(live.get(key), want[key])]
                if stale and self.differs(f"the profile of {client['id']} differs in {' and '.join(stale)}"):
                    live = service.must("PUT", f"/v1/clients/{user_id}", want)
            numbers[client["id"]] = live.get("id")
        return numbers

    def record(self, ids, numbers):
        """Write down who is who, for tests and people (clients.json beside the data)."""
        path = self.state_dir / "clients.json"
        want = {
            client["id"]: {
                "open_webui_user_id": ids[client["id"]],
                "client_id": numbers[client["id"]],
                "email": client["email"].lower(),
                "tags": client["tags"],
            }
            for client in self.want["clients"]
        }
        try:
            live = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            live = None
        if live != want and self.differs(f"{path} does not name the declared clients and their ids"):
            write_private(path, json.dumps(want, indent=2) + "\n")


def same(live, want):
    """Equal, lists as sets."""
    if isinstance(want, list) and isinstance(live, list):
        return sorted(map(str, live)) == sorted(map(str, want))
    return live == want


def main(arguments):
    if arguments not in (["plan"], ["apply"]):
        print("usage: open_webui.py plan|apply", file=sys.stderr)
        return 2
    applying = arguments == ["apply"]
    path = Path(os.environ.get("OPEN_WEBUI_PROVISION", DECLARATION))
    try:
        declaration = json.loads(path.read_text())
    except FileNotFoundError:
        print(f"{path} is missing; deploy Open WebUI first.", file=sys.stderr)
        return 1
    run = Provisioning(declaration, applying)
    try:
        run.run()
    except Unreachable as error:
        if applying:
            print(error, file=sys.stderr)
            return 1
        print(json.dumps({"reachable": False, "differences": run.differences}))
        return 0
    except Failure as error:
        print(str(error), file=sys.stderr)
        return 1
    if not applying:
        print(json.dumps({"reachable": True, "differences": run.differences}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
