"""The command line: flags, one-line errors, the ready line, signals."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import structlog
import trio
from click.testing import CliRunner

from edge import __version__, cli
from edge.config import Config
from edge.errors import ConfigError
from edge.ready import Ready, Role, StartupError
from edge.token import TokenKey, TokenSealer

READY = Ready(role="serve", http="http://127.0.0.1:1", udp="127.0.0.1:2", pid=3)


class FakeApp(ModuleType):
    """Stands for ``edge.app``; records how it was run."""

    def __init__(self) -> None:
        super().__init__("edge.app")
        self.role: Role | None = None
        self.config = Config()
        self.steps: list[str] = []
        self.error: BaseException | None = None
        self.late_error: Exception | None = None
        self.signals: list[int] = []
        self.drains = True

    async def run(
        self, role: Role, config: Config, *, announce: Callable[[Ready], None], stop: trio.Event
    ) -> None:
        self.role, self.config = role, config
        if self.error is not None:
            raise self.error
        announce(READY)
        if self.late_error is not None:
            raise self.late_error
        if not self.signals:
            return
        try:
            os.kill(os.getpid(), self.signals[0])
            await stop.wait()
            self.steps.append("drain")
            for number in self.signals[1:]:
                os.kill(os.getpid(), number)
            if self.drains:
                await trio.lowlevel.checkpoint()
            else:
                await trio.sleep_forever()
            self.steps.append("drained")
        except trio.Cancelled:
            self.steps.append("cancelled")
            raise


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApp]:
    fake = FakeApp()
    monkeypatch.setitem(sys.modules, "edge.app", fake)
    monkeypatch.setattr("edge.app", fake, raising=False)
    for name in [name for name in os.environ if name.startswith("EDGE_")]:
        monkeypatch.delenv(name)
    yield fake
    structlog.reset_defaults()


def edge(*args: str) -> int:
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as info:
        cli.main(args)
    assert handlers == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    assert isinstance(info.value.code, int)
    return info.value.code


def test_ready_is_one_json_line(app: FakeApp, capfd: pytest.CaptureFixture[str]) -> None:
    assert edge("serve") == 0
    out, err = capfd.readouterr()
    assert out.count("\n") == 1
    assert json.loads(out) == {
        "ready": True, "role": "serve",
        "http": "http://127.0.0.1:1", "udp": "127.0.0.1:2", "pid": 3,
    }  # fmt: skip
    started = json.loads(err)
    assert (started["event"], started["role"], started["udp"]) == ("started", "serve", READY.udp)


def test_flags_are_configuration(app: FakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_HTTP_BIND", "127.0.0.1:7")
    monkeypatch.setenv("EDGE_RELAY_MAX_FLOWS", "9")
    arguments = ["--http", "0.0.0.0:0", "--udp", "127.0.0.1:0", "--advertise", "192.0.2.1",
                 "--internal", "127.0.0.1:5", "--tls", "self-signed", "--allow-anonymous",
                 "--echo-delay", "0.5", "--log-level", "warning"]  # fmt: skip
    assert edge("serve", *arguments) == 0
    config = app.config
    assert (app.role, config.http.bind, config.http.tls) == ("serve", "0.0.0.0:0", "self-signed")
    assert config.http.allow_anonymous
    assert config.relay.internal_bind == "127.0.0.1:5"
    assert config.relay.max_flows == 9
    assert config.backend.echo_delay_seconds == 0.5


def test_each_role_has_its_own_internal_address(
    app: FakeApp, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = f"{tmp_path}/secret"
    with open(secret, "w") as file:
        file.write("s" * 32)
    fleet = ["--registry", "redis://127.0.0.1:6379/0", "--secret-file", secret]
    monkeypatch.setenv("EDGE_RELAY_SUPERVISE", "false")  # the fake app has no sockets
    assert edge("transceiver", "--internal", "127.0.0.1:5", *fleet) == 0
    assert app.config.transceiver.bind == "127.0.0.1:5"
    assert edge("relay", "--internal", "127.0.0.1:6", *fleet) == 0
    assert (app.role, app.config.relay.internal_bind) == ("relay", "127.0.0.1:6")


def test_the_file_may_be_named_by_the_environment(
    app: FakeApp, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(f"{tmp_path}/edge.toml", "w") as file:
        file.write("[relay]\nmax_flows = 5\n")
    monkeypatch.setenv("EDGE_CONFIG", f"{tmp_path}/edge.toml")
    assert edge("serve") == 0
    assert app.config.relay.max_flows == 5


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["serve", "--http", "x:1"], "--http: 'x:1': the host must be an IP address or localhost"),
        (["serve", "--upd", "x"], "No such option '--upd'. Did you mean '--udp'?"),
        (["serve", "--tls", "on"], "--tls: must be off or self-signed or files, not 'on'"),
        (["serve", "--udp", "0.0.0.0:3478"],
         "--advertise: 0.0.0.0:3478 is a wildcard: name the address that clients shall send to"),
        (["serve", "--config", "missing.toml"], "missing.toml: no such file or directory"),
        (["sevre"], "No such command 'sevre'. Did you mean 'serve'?"),
        (["relay"], "--registry: a relay or transceiver of its own needs a shared registry, "
         "as in redis://HOST:6379/0"),
        (["relay", "--backend", "echo"], "No such option '--backend'."),
        (["check-config", "--registry", "ftp://x"],
         "--registry: must be memory: or redis://HOST:PORT/DB (rediss:// for TLS)"),
        (["serve", "--http", "0.0.0.0:1"],
         "--api-keys-file: 0.0.0.0:1 can be reached from outside: "
         "set api_keys, or allow_anonymous to serve anyone"),
        (["relay", "--registry", "redis://127.0.0.1"],
         "--secret-file: a shared registry needs a secret of at least 32 characters"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_one_line_and_exit_2(
    app: FakeApp, capfd: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert edge(*arguments) == 2
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"edge: {line}\n")
    assert app.role is None


def test_a_wrong_variable_is_one_line_and_exit_2(
    app: FakeApp, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_RELAY_BINDS", "x")
    assert edge("serve") == 2
    assert capfd.readouterr().err == (
        "edge: EDGE_RELAY_BINDS: unknown variable, did you mean EDGE_RELAY_BIND?\n"
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (StartupError("udp 127.0.0.1:3478: address in use"), "udp 127.0.0.1:3478: address in use"),
        (OSError(errno.EADDRINUSE, "Address already in use"), "Address already in use"),
        (FileNotFoundError(errno.ENOENT, "No such file", "cert.pem"), "cert.pem: No such file"),
        (ExceptionGroup("", [ExceptionGroup("", [StartupError("no\nway")])]), "no\\nway"),
        (ConfigError("cert.pem: not a certificate"), "cert.pem: not a certificate"),
    ],
)
def test_a_failed_start_is_one_line_and_exit_1(
    app: FakeApp, capfd: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    app.error = error
    assert edge("serve") == 1
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"edge: {line}\n")


@pytest.mark.parametrize("late", [True, False])
def test_a_bug_is_logged_and_exit_1(
    app: FakeApp, capfd: pytest.CaptureFixture[str], late: bool
) -> None:
    app.late_error = OSError("while serving") if late else None
    app.error = None if late else RuntimeError("a bug")
    assert edge("serve") == 1
    event = json.loads(capfd.readouterr().err.splitlines()[-1])
    assert event["level"] == "error"
    assert any("while serving" in line or "a bug" in line for line in event["exception"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(app: FakeApp, number: int) -> None:
    app.signals = [number]
    assert edge("serve") == 0
    assert app.steps == ["drain", "drained"]


def test_a_second_signal_cancels(app: FakeApp) -> None:
    app.signals = [signal.SIGTERM, signal.SIGINT]
    app.drains = False
    started = time.monotonic()
    assert edge("serve") == 0
    assert time.monotonic() - started < 1.0
    assert app.steps == ["drain", "cancelled"]
    assert not any(isinstance(thread, threading.Timer) for thread in threading.enumerate())


def test_a_drain_that_hangs_is_cancelled(app: FakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "DRAIN_GRACE_SECONDS", 0.0)
    monkeypatch.setenv("EDGE_TRANSCEIVER_DRAIN_SECONDS", "0.05")
    app.signals = [signal.SIGTERM]
    app.drains = False
    assert edge("serve") == 0
    assert app.steps == ["drain", "cancelled"]


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert edge("--version") == 0
    assert capfd.readouterr().out == f"edge {__version__}\n"


def test_check_config_shows_no_secret(
    app: FakeApp, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_REGISTRY_SECRET", "hush" * 8)
    monkeypatch.setenv("EDGE_HTTP_API_KEYS", "hush-hush")
    assert edge("check-config", "--registry", "redis://:hush@127.0.0.1/0") == 0
    out, err = capfd.readouterr()
    assert "hush" not in out + err
    assert 'url = "redis://***@127.0.0.1/0"' in out
    assert {"# secret is set", "# api_keys is set"} <= set(out.splitlines())
    assert app.role is None


def test_what_check_config_prints_is_a_configuration(
    app: FakeApp, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--http", "127.0.0.1:1", "--cors-origin", "https://a,https://b"]
    assert edge("check-config", *flags) == 0
    file = tmp_path / "edge.toml"
    file.write_text(capfd.readouterr().out)
    assert edge("serve", "--config", str(file)) == 0
    assert app.config.http.bind == "127.0.0.1:1"
    assert app.config.http.cors_origins == ("https://a", "https://b")
    assert app.config.relay == Config().relay


def test_without_a_command_the_help_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert edge() == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("Usage: edge ")
    assert err.count("\n") > 5


@pytest.mark.parametrize(
    "command",
    [[], ["serve"], ["relay"], ["transceiver"], ["check-config"], ["token", "decode"], ["top"]],
)
def test_help(command: list[str]) -> None:
    result = CliRunner().invoke(cli.cli, [*command, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")


SECRET = "the fleet's secret, long enough it is"
FORMER = "the fleet's former secret, long enough"


def seal(secret: str = SECRET, *, seconds: float = 7_300.0) -> str:
    expiry = int(time.time() + seconds)
    return TokenSealer(TokenKey.derive(secret)).seal(77, 3, expiry, 0xABCDEF)


@pytest.fixture
def secrets(app: FakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_REGISTRY_SECRET", SECRET)
    monkeypatch.setenv("EDGE_REGISTRY_PREVIOUS_SECRET", FORMER)


def decode(capfd: pytest.CaptureFixture[str], *args: str, code: int = 0) -> tuple[str, str]:
    """Run ``edge token decode``; it shows no secret, and little of a token."""
    assert edge("token", "decode", *args) == code
    out, err = capfd.readouterr()
    for hidden in (SECRET, FORMER, *(arg for arg in args if len(arg) > 12)):
        assert hidden not in out + err
    return out, err


@pytest.mark.parametrize(("secret", "name"), [(SECRET, "current"), (FORMER, "previous")])
def test_token_decode(
    secrets: None, capfd: pytest.CaptureFixture[str], secret: str, name: str
) -> None:
    out, err = decode(capfd, seal(secret))
    key_id = TokenKey.derive(secret).key_id
    assert f"key id {key_id}, opened by the {name} secret" in out
    rows = dict(line.split(None, 1) for line in out.splitlines()[1:])
    expiry = rows.pop("expiry")
    assert rows == {"cluster": "3", "slot": "77", "nonce": str(0xABCDEF)}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \(in 2 h\)", expiry)
    assert err == ""


@pytest.mark.parametrize(
    "around", ["{}", "{}:clnt", "clnt:{}", "a=ice-ufrag:{}", "ice-ufrag:{}\r\n", " {}\n"]
)
def test_token_decode_takes_what_a_token_is_found_in(
    secrets: None, capfd: pytest.CaptureFixture[str], around: str
) -> None:
    assert "slot     77" in decode(capfd, around.format(seal()))[0]


def test_token_decode_reads_an_sdp_from_stdin(secrets: None) -> None:
    line = f"a=ice-ufrag:{seal()}"
    sdp = "\r\n".join(["v=0", "m=audio 9", line, "a=ice-pwd:hush", "m=video 0", line, ""])
    result = CliRunner().invoke(cli.cli, ["token", "decode", "--json", "-"], input=sdp)
    (decoded,) = json.loads(result.stdout)
    assert (decoded["slot"], decoded["cluster"], decoded["opened_by"]) == (77, 3, "current")
    assert 7_200 < decoded["expires_in_seconds"] <= 7_300
    assert "hush" not in result.output


def test_token_decode_tells_an_expired_one(
    secrets: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "(expired 2 min ago)" in decode(capfd, seal(seconds=-150.0))[0]


def test_token_decode_without_a_secret(app: FakeApp, capfd: pytest.CaptureFixture[str]) -> None:
    key_id = TokenKey.derive(SECRET).key_id
    out, _ = decode(capfd, seal())
    assert out.endswith(
        f"version 0, key id {key_id}; no secret given, so there is no more to tell\n"
    )
    assert "slot" not in out


def test_token_decode_takes_the_secret_from_a_file(
    app: FakeApp, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    flags = ("--secret-file", str(tmp_path / "secret"))
    assert edge("token", "decode", seal(), *flags) == 0
    assert "opened by the current secret" in capfd.readouterr().out
    (tmp_path / "secret").write_text("short")
    assert edge("token", "decode", seal(), *flags) == 2
    assert "--secret-file: must have at least 32 characters" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("abcd", "not a token: it has 4 characters, a token 23"),
        ("", "there is nothing in it"),
        ("v=0\ns=-", "there is no ice-ufrag in it"),
        ("A" * 22 + "B", "not a token: its spare bits are not zero"),
        ("A" * 22 + "\x1b", "not a token: not all of its characters are ice-chars"),
        ("/" + "A" * 22, "not a token that this edge reads: its version is 7, not 0"),
        ("A" * 23, "no given secret opens it"),
        ("A" * 70_000, "longer than 65536 characters"),
    ],
)
def test_token_decode_says_what_is_wrong_and_goes_on(
    secrets: None, capfd: pytest.CaptureFixture[str], text: str, wrong: str
) -> None:
    out, err = decode(capfd, text, seal(), code=1)
    assert err.startswith(f"edge: token 1: {wrong}")
    assert err.count("\n") == 1
    assert "slot     77" in out


def test_token_decode_does_not_apply_the_rules_of_a_role(
    secrets: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_HTTP_BIND", "0.0.0.0:9090")  # good for a relay, not for signaling
    decode(capfd, seal())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "--registry: name the fleet's, as in redis://HOST:6379/0, or give --http"),
        (
            ["--registry", "redis://127.0.0.1:1/0"],
            "--secret-file: the registry can not be read without the fleet's secret",
        ),
    ],
)
def test_top_needs_somebody_to_ask(
    app: FakeApp, capfd: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert edge("top", *arguments) == 2
    assert capfd.readouterr() == ("", f"edge: {line}\n")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--address", "nowhere"], "--address: not like unix:/PATH or HOST:PORT"),
        (["--log-level", "loud"], "--log-level: "),
    ],
)
def test_the_demo_voice_names_what_is_wrong(
    capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["demo-voice", *arguments])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(f"edge: {error}")


def test_the_demo_voice_asks_for_its_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edge.demo_voice.parts.PARTS", ("no_such_part",))
    with pytest.raises(SystemExit) as left:
        cli.main(["demo-voice"])
    assert left.value.code == 1
    assert "pip install edge[demo-voice]" in capsys.readouterr().err
