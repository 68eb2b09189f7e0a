"""An adapter to a person's own place on a model hub, with the person's own token."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Protocol

from playground.errors import InputError
from playground.services.adapters import AdapterService

REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
TOKEN = re.compile(r"[!-~]{8,400}")


class Hub(Protocol):
    """Where models are kept."""

    def send(self, folder: Path, repo: str, token: str, *, private: bool) -> str:
        """Make ``repo`` (``owner/name``) if it is not there and put the folder's files into it. Returns its address. Raises
        InputError."""
        ...


class HuggingFaceHub:
    """The Hugging Face Hub. endpoint: its address, None = the usual one."""

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint

    def send(self, folder: Path, repo: str, token: str, *, private: bool) -> str:
        from httpx import HTTPError
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        api = HfApi(endpoint=self._endpoint, token=token)
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Trained with Prompt or Tune")
        except OfflineModeIsEnabled as error:
            raise InputError("HF_HUB_OFFLINE is set, so nothing is sent. Unset it, start again, and push once more.") from error
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            raise InputError(_refused(repo, status)) from None  # the library's own words may repeat the request
        except (HTTPError, OSError, ValueError) as error:
            raise InputError(
                f"The hub cannot be reached, or answers as no hub does ({type(error).__name__}). Check the network, or export the folder and push it from elsewhere."
            ) from None
        return f"{api.endpoint}/{repo}"


class Pusher:
    """Exports an adapter and hands it to a hub. The token is used for this and kept nowhere."""

    def __init__(self, adapters: AdapterService, hub: Hub | None = None) -> None:
        self._adapters, self._hub = adapters, hub or HuggingFaceHub()

    def push(self, adapter_id: str, repo: str, token: str, *, private: bool = True, owner: str = "local") -> str:
        """Returns the address it can be found at. Raises InputError, NotFoundError."""
        card = self._adapters.get(adapter_id, owner)
        repo, token = repo.strip(), token.strip()
        if not REPO.fullmatch(repo) or ".." in repo:
            raise InputError("Write where it goes as OWNER/NAME, such as ada/hospital-reports: letters, digits, dots, dashes.")
        if not TOKEN.fullmatch(token):
            raise InputError(
                "Give a token of yours that may write: make one in the hub's settings. It is used once and not kept."
            )
        room = Path(tempfile.mkdtemp(prefix="push-"))
        try:
            return self._hub.send(self._adapters.export_folder(card.id, room / card.id, owner), repo, token, private=private)
        finally:
            shutil.rmtree(room, ignore_errors=True)


def _refused(repo: str, status: int) -> str:
    if status in (401, 403):
        return (
            f"The hub does not let this token write to {repo} ({status}). Make one with write access, and check the owner's name."
        )
    if status == 409:
        return f"The hub is writing to {repo} just now ({status}). Try again in a moment."
    return (
        f"The hub refused to take {repo} ({status or 'no answer'}). Try again later, or export the folder and push it yourself."
    )
