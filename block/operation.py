"""How services are operated: who may use them, and what they tell of themselves. Part of the tree."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from block.settings import Flag, Seconds, Settings, Share, Url, Whole


class SecretSource(Settings):
    """Where secrets are read from: their values stand in no configuration, command line or log.

    Several are parted by blanks, commas or line ends; lines that begin with ``#`` are skipped.
    """

    env: str | None = Field(None, min_length=1, description="Environment variable that holds them.")
    file: Path | None = Field(None, description="File that holds them; read again when it changes.")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise PydanticCustomError("secret", "name either env or file")
        return self


class TlsSettings(Settings):
    """HTTPS in place of HTTP. The files are read again when they change, and on SIGHUP."""

    certificate: Path = Field(description="PEM file with the certificate and its chain.")
    key: Path | None = Field(None, description="PEM file with its private key; None: in the same file.")


class AccessSettings(Settings):
    """Who may use a service."""

    keys: SecretSource | None = Field(None, description="Keys, one of which every request must bring.")
    open_metrics: Flag = Field(False, description="Answer /metrics without a key; /health never needs one.")
    allow_anyone: Flag = Field(False, description="Listen beyond this machine even without keys.")


class SchedulerAccess(AccessSettings):
    """Who may use the scheduler."""

    admin_keys: SecretSource | None = Field(
        None,
        description="Keys for /admin/. Without any, it is open on a loopback address to whom no keys "
        "are asked of, and closed to everybody else.",
    )


class UpstreamSettings(Settings):
    """How the scheduler shows itself to engines and predictors."""

    engine_key: SecretSource | None = Field(
        None, description="What engines take (vLLM's --api-key); read at the start."
    )
    predictor_key: SecretSource | None = Field(None, description="What predictors take; read at the start.")
    forward_client_key: Flag = Field(
        False, description="Pass the client's own Authorization and X-Api-Key headers on to engines."
    )
    authorities: Path | None = Field(
        None, description="PEM file of the authorities trusted for https; None trusts the system's."
    )

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.engine_key is not None and self.forward_client_key:
            raise PydanticCustomError("two_keys", "engine_key and forward_client_key exclude each other")
        return self


class HangSettings(Settings):
    """When a process that runs but does not answer counts as hung; whoever launched it ends it and starts it
    again. Slow is not hung: any answer in time, whatever its status, begins the count anew.
    """

    interval_s: Seconds = Field(2.0, description="From an answer, or its absence, to the next question.")
    patience_s: Seconds = Field(10.0, description="For one answer to GET /health.")
    misses: Whole = Field(3, ge=1, le=1000, description="Answers in a row that do not come in time.")


class ReceiptSettings(Settings):
    """A line of JSON for every decision and what became of it (``block.decision_receipt``)."""

    file: Path | None = Field(None, description="File to append to; opened anew on SIGHUP.")
    stdout: Flag = Field(False, description="Write to the standard output instead.")
    queue: Whole = Field(
        10_000, ge=1, le=10_000_000, description="Receipts that may wait to be written; more are dropped."
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.file is not None and self.stdout:
            raise PydanticCustomError("two_places", "file and stdout exclude each other")
        return self

    @property
    def wanted(self) -> bool:
        """Whether any are to be written."""
        return self.stdout or self.file is not None


class TracingSettings(Settings):
    """OpenTelemetry traces; needs the extra ``tracing``."""

    endpoint: Url | None = Field(
        None, description="OTLP over HTTP, as in http://collector:4318/v1/traces; None traces nothing."
    )
    sample: Share = Field(
        1.0, description="Share of the traces that begin here to record; a client's own decision comes first."
    )
    service_name: str = Field("block-scheduler", min_length=1, description="What the traces call us.")
