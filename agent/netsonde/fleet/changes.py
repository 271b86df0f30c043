"""Changes the desired state of a fleet: apply a policy file, resume, roll back, and look at it.

These are the functions behind `netsonde plan`, `apply`, `drift` and `rollback`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..wire.policy import Policy, PolicySet
from .client import FleetClient
from .inventory import Host, Inventory, NoInventoryError, read_inventory
from .policies import PolicyStore, PolicyStoreError, Released, Rolling, new_revision
from .rollout import Observer, PlanRow, Progress, Roller, drift, plan


@dataclass(frozen=True, slots=True)
class FleetState:
    """The inventory, and the revision that is released. malformed: keys of the inventory whose
    value is not an entry of that host."""

    hosts: Mapping[str, Host]
    released: Released
    malformed: Sequence[str] = ()

    def plan(self, policies: Sequence[Policy]) -> list[PlanRow]:
        """Returns the effect on each host if `policies` were applied."""
        return plan(self.hosts, self.released, PolicySet(new_revision(1, list(policies))))

    def drift(self) -> dict[str, str]:
        """Returns why each host that is not as its policy says is not, by host."""
        return drift(self.hosts, self.released)


async def read_hosts(client: FleetClient) -> Inventory:
    """Reads the inventory. Raises NoInventoryError, InventoryError."""
    address = client.address
    inventory = await read_inventory(
        client.connection, address.root, domain=address.jetstream_domain
    )
    if inventory is None:
        raise NoInventoryError
    return inventory


async def read_state(client: FleetClient) -> FleetState:
    """Raises NoInventoryError, InventoryError, PolicyStoreError."""
    inventory = await read_hosts(client)
    released = await PolicyStore(client).read()
    return FleetState(inventory.hosts, released, inventory.malformed)


async def begin(client: FleetClient, policies: Sequence[Policy]) -> Roller:
    """Writes the policies as a new revision, released to no host yet. Call `run` to release it.
    Raises NoInventoryError, PolicyStoreError."""
    inventory = await read_hosts(client)
    store = PolicyStore(client)
    now = await store.add(await store.read(), list(policies))
    return _roller(client, store, now, inventory)


async def begin_rollback(client: FleetClient, revision: int) -> Roller:
    """Writes the policies of an earlier revision again, as `begin` does."""
    inventory = await read_hosts(client)
    store = PolicyStore(client)
    now = await store.read()
    policies = (await store.revision(revision)).revision.policies
    now = await store.add(now, policies, restores=revision)
    return _roller(client, store, now, inventory)


async def continue_rollout(client: FleetClient) -> Roller:
    """Returns the rollout that was stopped or cut off, to `run` the rest of it. Raises
    PolicyStoreError without one."""
    inventory = await read_hosts(client)
    store = PolicyStore(client)
    now = await store.read()
    if now.release is None:
        raise PolicyStoreError("No revision was ever applied.")
    if now.release.complete:
        raise PolicyStoreError(f"Revision {now.release.revision} is released to every host.")
    return _roller(client, store, Rolling(now.release, now.sets, now.entry), inventory)


def _roller(client: FleetClient, store: PolicyStore, now: Rolling, inventory: Inventory) -> Roller:
    roller = Roller(client, store, now)
    roller.malformed = inventory.malformed
    return roller


async def apply(
    client: FleetClient, policies: Sequence[Policy], observe: Observer | None = None
) -> Progress:
    """Releases the policies as a new revision, batch by batch, and returns the state of each host.

    observe: called after each look at the inventory, about once a second. The rollout stops at the
    limits of a policy; `Progress.stopped` then says why. If this is cancelled, the released hosts
    keep the revision, and `resume` continues. Raises NoInventoryError, InventoryError,
    PolicyStoreError.
    """
    return await _run(await begin(client, policies), observe)


async def rollback(client: FleetClient, revision: int, observe: Observer | None = None) -> Progress:
    """Releases the policies of an earlier revision again, as `apply` does."""
    return await _run(await begin_rollback(client, revision), observe)


async def resume(client: FleetClient, observe: Observer | None = None) -> Progress:
    """Continues a rollout that was stopped or cut off, as `apply` does."""
    return await _run(await continue_rollout(client), observe)


async def _run(roller: Roller, observe: Observer | None) -> Progress:
    if observe is not None:
        roller.observe = observe
    return await roller.run()
