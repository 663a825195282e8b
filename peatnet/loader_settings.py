"""One `[loaders.NAME]` of config.toml, checked as it is read: a placeholder misspelled is found now, not at night."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from peatnet.deploy.loaders import (
    DEFAULT_TIMEOUT_S,
    METHODS,
    CommandLoader,
    HttpLoader,
    LoaderConfig,
    check_body,
    check_url,
)


def _argument(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold NUL")
    return text


def _url(text: str) -> str:
    check_url(text)
    return text


def _method(text: str) -> str:
    if text not in METHODS:
        raise ValueError(f"must be one of {', '.join(sorted(METHODS))}")
    return text


def _body(body: dict[str, Any]) -> dict[str, Any]:
    check_body(body)
    return body


def _header(text: str) -> str:
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError("must be printable ASCII without spaces around it")
    return text


_Argument = Annotated[str, Field(max_length=4096), AfterValidator(_argument)]
_Header = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_header)]


class LoaderSettings(BaseModel):
    """How models of one name, type or format are put into service: by a command or by an HTTP request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: tuple[_Argument, ...] | None = Field(default=None, min_length=1, max_length=256)
    url: Annotated[str, Field(max_length=2048), AfterValidator(_url)] | None = None
    method: Annotated[str, AfterValidator(_method)] | None = None
    body: Annotated[dict[str, Any], AfterValidator(_body)] | None = None
    headers: dict[_Header, _Header] | None = Field(default=None, max_length=32)
    timeout_s: float = Field(default=DEFAULT_TIMEOUT_S, gt=0, le=86_400)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("needs either command or url")
        if self.command is not None and not self.command[0]:
            raise ValueError("command must begin with a program")
        extra = [name for name in ("method", "body", "headers") if getattr(self, name) is not None]
        if self.url is None and extra:
            raise ValueError(f"{extra[0]} goes with url and not with command")
        return self

    def loader(self) -> LoaderConfig:
        """The same for the room that runs it."""
        if self.command is not None:
            return CommandLoader(self.command, self.timeout_s)
        return HttpLoader(
            url=self.url or "",
            method=self.method or "POST",
            body=self.body,
            headers=self.headers or {},
            timeout_s=self.timeout_s,
        )
