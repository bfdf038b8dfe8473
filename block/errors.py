"""The one error tree.

BlockError
├── ConfigError            a setting is missing, unknown or out of bounds
├── StateError             an engine state or a feed message contradicts itself
│   └── UnsupportedError   a state or engine feature the simulation refuses rather than approximates
├── FeedError              the state feed cannot be opened or followed
├── PackError              a profile or model file is damaged or foreign
├── ReceiptError           a file of decision receipts is damaged or foreign
├── DataError              a public data set cannot be fetched, or is not the expected one
├── InstanceError          an instance did not answer as an OpenAI server should
├── PredictorError         a predictor did not answer, or refused
├── TransportError         the connection to a peer failed, or what it sent is not HTTP
│   └── ConnectError       no connection came about; nothing was sent
├── RequestError           a client's request is refused
└── DeployError            a cluster could not be brought up, found or taken down

Foreign exceptions are translated into these at the seam where they arise.
"""

from __future__ import annotations


class BlockError(Exception):
    """Root of every error this project raises on purpose."""


class ConfigError(BlockError):
    """A setting is missing, unknown or out of bounds; the text names field, value and remedy."""


class StateError(BlockError):
    """An engine state or feed message contradicts itself; the text names the field."""


class UnsupportedError(StateError):
    """A state or engine feature that the simulation refuses rather than approximates."""


class FeedError(BlockError):
    """The state feed cannot be opened or followed."""


class PackError(BlockError):
    """A profile or model file is damaged or foreign."""


class ReceiptError(BlockError):
    """A file of decision receipts is damaged or foreign."""


class DataError(BlockError):
    """A public data set cannot be fetched, or is not the expected one."""


class InstanceError(BlockError):
    """An instance did not answer as an OpenAI server should."""


class PredictorError(BlockError):
    """A predictor did not answer, or refused."""


class TransportError(BlockError):
    """The connection to a peer failed, or what it sent is not HTTP."""


class ConnectError(TransportError):
    """No connection came about; nothing was sent."""


class RequestError(BlockError):
    """A client's request is refused; carries what OpenAI's error shape needs.

    ``status`` is the HTTP status, ``code`` and ``param`` are OpenAI's fields of those names, and
    ``retry_after_s``, if any, tells the client when asking again makes sense.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s


class DeployError(BlockError):
    """A cluster could not be brought up, found or taken down."""
