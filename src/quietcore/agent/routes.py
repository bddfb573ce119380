"""What can be asked over the socket: each request is one call of the engine, and its answer one value."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from quietcore import __version__
from quietcore.agent.agent import Agent
from quietcore.agent.wire import Wanted, from_json
from quietcore.engine import Engine, Event, Move, Outcome, VmView
from quietcore.engine import Wanted as Adoptee
from quietcore.engine.codec import encode
from quietcore.errors import ExitCode, InputError, Problem
from quietcore.manifest import SourceText, load
from quietcore.model import CpuSet, Entry, Plan, Refusal, VmName
from quietcore.render import json as as_json
from quietcore.render.values import Description, DescriptionList, PlanList, Verification

Steps: TypeAlias = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, read whole; `values` says that it speaks the form of our own programs (`wire`)."""

    method: str
    path: str
    query: Mapping[str, str]
    body: str = ""
    values: bool = False

    @classmethod
    def parse(cls, method: str, target: str, body: str = "", *, values: bool = False) -> Request:
        """From the request line."""
        parts = urlsplit(target)
        query = {name: found[-1] for name, found in parse_qs(parts.query).items()}
        return cls(method=method, path=unquote(parts.path), query=query, body=body, values=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer: the value for our own programs, the object for all others, and the exit code that the command would have."""

    value: object
    shown: Mapping[str, object]
    code: ExitCode = ExitCode.OK


class Routes:
    """The engine's calls by method and path. Any thread may ask."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._table: tuple[tuple[str, re.Pattern[str], Callable[..., Reply]], ...] = (  # each takes what its path names
            ("GET", re.compile(r"/v1/agent"), self._about),
            ("GET", re.compile(r"/v1/ledger"), self._ledger),
            ("GET", re.compile(r"/v1/vms"), self._list),
            ("GET", re.compile(r"/v1/vms/(?P<namespace>[^/]+)/(?P<name>[^/]+)"), self._describe),
            ("GET", re.compile(r"/v1/vms/(?P<namespace>[^/]+)/(?P<name>[^/]+)/observation"), self._observe),
            ("GET", re.compile(r"/v1/vms/(?P<namespace>[^/]+)/(?P<name>[^/]+)/care"), self._care),
            ("GET", re.compile(r"/v1/verify"), self._verify_all),
            ("GET", re.compile(r"/v1/verify/(?P<namespace>[^/]+)/(?P<name>[^/]+)"), self._verify),
            ("GET", re.compile(r"/v1/events"), self._events),
            ("POST", re.compile(r"/v1/apply"), self._apply),
            ("DELETE", re.compile(r"/v1/vms/(?P<namespace>[^/]+)/(?P<name>[^/]+)"), self._delete),
            ("GET", re.compile(r"/v1/vms/(?P<namespace>[^/]+)/(?P<name>[^/]+)/repin"), self._plan_move),
            ("POST", re.compile(r"/v1/vms/(?P<namespace>[^/]+)/(?P<name>[^/]+)/repin"), self._repin),
            ("POST", re.compile(r"/v1/vms/(?P<namespace>[^/]+)/(?P<name>[^/]+)/release"), self._release),
            ("POST", re.compile(r"/v1/adopt"), self._adopt),
        )

    def answer(self, request: Request, steps: Steps) -> Reply:
        """Do it. `steps` hears what happens meanwhile. Raises QuietcoreError; InputError with code `not-found` for no such thing."""
        matches = [(method, pattern.fullmatch(request.path), call) for method, pattern, call in self._table]
        for method, match, call in matches:
            if match is not None and method == request.method:
                return call(request, self._engine(steps), **match.groupdict())
        known = sorted({method for method, match, _call in matches if match is not None})
        raise _refused(f"{request.method} {request.path} is not known", "not-found", f"it answers {', '.join(known)}" if known else "")

    def _engine(self, steps: Steps) -> Engine:
        before = self._agent.world.report

        def both(event: Event) -> None:
            before(event)
            steps(event)

        return Engine(replace(self._agent.world, report=both))

    def _about(self, _request: Request, engine: Engine) -> Reply:
        config = engine.world.config
        return _fields("Agent", {"version": __version__, "state": config.state_dir, "uri": config.uri})

    def _ledger(self, _request: Request, engine: Engine) -> Reply:
        books = engine.world.books.load()
        return replace(_fields("Ledger", encode(books)), value=books)

    def _list(self, request: Request, engine: Engine) -> Reply:
        views = engine.views()
        namespace = request.query.get("namespace")
        chosen = tuple(view for view in views if namespace is None or view.entry.vm.namespace == namespace)
        return Reply(value=chosen, shown=as_json.to_json(DescriptionList(items=tuple(self._described(view) for view in chosen))))

    def _describe(self, request: Request, engine: Engine, namespace: str, name: str) -> Reply:
        view = _view(engine, namespace, name)
        if request.values:
            return Reply(value=view, shown={})
        census = engine.observation(view.entry.vm).census if view.domain is not None else None
        return Reply(value=view, shown=as_json.to_json(replace(self._described(view), census=census)))

    def _observe(self, _request: Request, engine: Engine, namespace: str, name: str) -> Reply:
        view = _view(engine, namespace, name)
        seen = engine.observation(view.entry.vm)
        return Reply(value=seen, shown=as_json.to_json(replace(self._described(view), census=seen.census)))

    def _care(self, _request: Request, engine: Engine, namespace: str, name: str) -> Reply:
        view = _view(engine, namespace, name)
        return Reply(value=self._agent.care(view.entry.vm), shown=as_json.to_json(self._described(view)))

    def _verify(self, _request: Request, engine: Engine, namespace: str, name: str) -> Reply:
        found = engine.verify(_view(engine, namespace, name))
        return Reply(value=found, shown=as_json.to_json(found), code=ExitCode.OK if found.ok else ExitCode.FINDINGS)

    def _verify_all(self, _request: Request, engine: Engine) -> Reply:
        found: tuple[Verification, ...] = tuple(engine.verify(view) for view in engine.views())
        shown = as_json.listed("VerificationList", found)
        return Reply(value=found, shown=shown, code=ExitCode.OK if all(one.ok for one in found) else ExitCode.FINDINGS)

    def _events(self, request: Request, _engine: Engine) -> Reply:
        since = request.query.get("since", "0")
        if not since.isdecimal():
            raise _refused(f"since={since} is no number of an event", "bad-request")
        found = self._agent.log.since(int(since))
        items = [
            {"number": one.number, "time": one.time_s, "event": one.event, "vm": as_json.vm_fields(one.vm), "fields": dict(one.fields)}
            for one in found
        ]
        return _fields("EventList", {"items": items})

    def _apply(self, request: Request, engine: Engine) -> Reply:
        if request.values:
            wanted = from_json(Wanted, _object(request.body))
            outcome = engine.apply(wanted.spec, wanted.text, wanted.cluster)
            return Reply(value=outcome, shown={}, code=_code((outcome,)))
        loaded = load([SourceText(file="<request>", text=request.body)])
        outcomes = tuple(engine.apply(one.spec, one.text, loaded.cluster) for one in loaded.documents)
        answers = tuple(answer for one in outcomes if (answer := one.refusal or one.plan) is not None)
        return Reply(value=outcomes, shown=as_json.to_json(PlanList(items=answers)), code=_code(outcomes))

    def _delete(self, request: Request, engine: Engine, namespace: str, name: str) -> Reply:
        grace = request.query.get("grace")
        if grace is not None and not grace.isdecimal():
            raise _refused(f"grace={grace} is no number of seconds", "bad-request")
        vm = VmName(namespace=namespace, name=name)
        found = engine.delete(vm, grace_s=None if grace is None else int(grace))
        if not found and not request.values:
            raise _no_such(vm)
        return replace(_fields("Deleted", {"vm": as_json.vm_fields(vm)}), value=found)

    def _plan_move(self, request: Request, engine: Engine, namespace: str, name: str) -> Reply:
        vm = VmName(namespace=namespace, name=name)
        return _moved(request, vm, engine.plan_move(vm, cpus=_cpus(request), memory="memory" in request.query))

    def _repin(self, request: Request, engine: Engine, namespace: str, name: str) -> Reply:
        vm = VmName(namespace=namespace, name=name)
        return _moved(request, vm, engine.repin(vm, cpus=_cpus(request), memory="memory" in request.query))

    def _adopt(self, request: Request, engine: Engine) -> Reply:
        answer = engine.adopt(from_json(Adoptee, _object(request.body)), dry_run="dry-run" in request.query)
        plan = answer.plan if isinstance(answer, Entry) else answer
        return Reply(value=answer, shown=_placed(plan), code=_refusal_code(plan))

    def _release(self, request: Request, engine: Engine, namespace: str, name: str) -> Reply:
        vm = VmName(namespace=namespace, name=name)
        found = engine.release(vm)
        if not found and not request.values:
            raise _no_such(vm)
        return replace(_fields("Released", {"vm": as_json.vm_fields(vm)}), value=found)

    def _described(self, view: VmView) -> Description:
        return Description(entry=replace(view.entry, plan=view.plan), phase=view.phase, care=self._agent.care(view.entry.vm))


def _view(engine: Engine, namespace: str, name: str) -> VmView:
    vm = VmName(namespace=namespace, name=name)
    view = engine.view(vm)
    if view is None:
        raise _no_such(vm)
    return view


def _no_such(vm: VmName) -> InputError:
    return _refused(f"there is no VM {vm}", "not-found", "`quietcore get vms` lists them")


def _moved(request: Request, vm: VmName, answer: Move | Refusal | None) -> Reply:
    if answer is None and not request.values:
        raise _no_such(vm)
    plan = answer.there if isinstance(answer, Move) else answer
    return Reply(value=answer, shown=_placed(plan), code=_refusal_code(plan))


def _placed(plan: Plan | Refusal | None) -> Mapping[str, object]:
    return as_json.to_json(PlanList(items=() if plan is None else (plan,)))


def _refusal_code(plan: Plan | Refusal | None) -> ExitCode:
    return ExitCode.DOES_NOT_FIT if isinstance(plan, Refusal) else ExitCode.OK


def _cpus(request: Request) -> CpuSet | None:
    text = request.query.get("cpus")
    try:
        return None if text is None else CpuSet.parse(text)
    except ValueError as err:
        raise _refused(f"cpus={text}: {err}", "bad-request") from err


def _fields(kind: str, fields: Mapping[str, object]) -> Reply:
    shown = {"apiVersion": as_json.API_VERSION, "kind": kind, **fields}
    return Reply(value=shown, shown=shown)


def _code(outcomes: tuple[Outcome, ...]) -> ExitCode:
    return ExitCode.DOES_NOT_FIT if any(one.refusal for one in outcomes) else ExitCode.OK


def _object(body: str) -> Any:  # noqa: ANN401  # JSON, checked by the decoder
    try:
        return json.loads(body)
    except ValueError as err:
        raise _refused(f"the body is no JSON: {err}", "bad-request") from err


def _refused(message: str, code: str, hint: str = "") -> InputError:
    return InputError.of((Problem(message=message, code=code, hint=hint),))
