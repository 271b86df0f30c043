"""A small fleet controller on the library netsonde.fleet.

    controller.py NATS_URL 'site = ams' [POLICY_FILE]

It lists the hosts, shows the capture of those that the selector chooses, and applies a policy file.
The exit code is 1 if a host was missing or did not take the policy.
"""

from __future__ import annotations

import asyncio
import sys

from netsonde import fleet


async def control(url: str, selector: str, policy_file: str | None) -> bool:
    target = fleet.select(selector)
    policies = fleet.read_policy_file(policy_file) if policy_file else []
    async with fleet.connect(url, lasting=True) as client:
        for host in (await fleet.discover(client)).values():
            labels = " ".join(f"{key}={value}" for key, value in host.labels.items())
            print(f"{host.host}: {host.state}, version {host.version}, {labels or 'no labels'}")

        outcome = fleet.Outcome()
        async for result in client.stream("status", target=target, outcome=outcome):
            print(f"{result.host}: {describe(result)}", flush=True)
        print(outcome.summary())
        if not policies:
            return outcome.complete

        progress = await fleet.apply(client, policies, lambda now: print(now.summary()))
        for one in progress.hosts.values():
            if one.state != "applied":
                print(f"{one.host}: {one.state} {one.detail}")
        drift = (await fleet.read_state(client)).drift()
        print(f"{len(drift)} hosts with drift")
        return outcome.complete and progress.complete


def describe(result: fleet.Result) -> str:
    if isinstance(result, fleet.Absence):
        return result.reason  # not connected, no answer, lost, not asked
    if not result.accepted:
        return f"refused: {result.body['error']}"
    if not result.body["running"]:
        return "no session"
    return f"{result.body['packets_captured']} packets, {result.body['packets_dropped']} dropped"


def main() -> None:
    if len(sys.argv) not in (3, 4):
        sys.exit(f"usage: {sys.argv[0]} NATS_URL SELECTOR [POLICY_FILE]")
    policy_file = sys.argv[3] if len(sys.argv) == 4 else None
    try:
        complete = asyncio.run(control(sys.argv[1], sys.argv[2], policy_file))
    except fleet.NetsondeError as error:
        sys.exit(error.detail)
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
