"""What the server makes of a hello: who takes part, before anybody trains and pays for it.

Nothing in a hello is believed that decides anything later: a name must be the one that the node's
key stands for, and admission checks every release by itself. What is refused here would be refused
there as well, after the client had spent its budget on it.

Covers: another version, another base model, a name or a signing key that is registered for somebody
else, another key than the one that signed what is admitted of the run, two nodes of one name.
Does not cover: a client whose later answers differ from its hello; see `server_side/admission.py`.
"""

from __future__ import annotations

from collections.abc import Collection

from protocol import SOFTWARE_VERSION
from protocol.errors import AdmissionCode
from protocol.messages import HelloReply
from server_side.admission_checks import AdmissionPolicy, may_sign


def judge_hello(
    reply: HelloReply,
    *,
    policy: AdmissionPolicy,
    registered: str,
    taken: Collection[str],
    bound_to: Collection[str] = (),
) -> tuple[AdmissionCode, str] | None:
    """Tell whether a client may take part.

    Args:
        reply: How it introduced itself.
        policy: What the server accepts.
        registered: For which client its node speaks; empty where nodes have no keys.
        taken: Names of the other nodes.
        bound_to: Keys that signed what is admitted of this client, as hexadecimal text, while one
            of its proxies is missing; both must have one key.

    Returns:
        None if it may; else what is wrong, as a code and in words for the server's operator.
    """
    name = reply.client_name
    if registered and name != registered:
        return AdmissionCode.CLIENT, (
            f"The node of {registered} calls itself {name}, and may not. Ask its operator; if that "
            "is its new name, revoke the client and allow it with its new introduction."
        )
    if name in taken:
        return AdmissionCode.CLIENT, f"Two nodes call themselves {name}; the first counts."
    if not may_sign(policy, client_name=name, public_key=reply.public_key):
        return AdmissionCode.UNKNOWN_KEY, (
            f"{name} signs with another key than the one that is registered for it. Revoke it and "
            "allow it with its new introduction."
        )
    if bound_to and reply.public_key not in bound_to:
        return AdmissionCode.UNKNOWN_KEY, (
            f"Expected {name} to sign with the key of its release that is admitted, because both "
            "releases of a run need one key, found another. Have its operator bring the old "
            "signing_key back, or begin a new run folder."
        )
    if reply.software_version != SOFTWARE_VERSION:
        return AdmissionCode.VERSION, (
            f"Expected {name} to run RewardDS {SOFTWARE_VERSION}, as this server does, found "
            f"{reply.software_version}. Agree with its operator on one version."
        )
    if reply.base_model_digest != policy.base_model_digest:
        return AdmissionCode.BASE_MODEL, (
            f"Expected {name} to stand on base model {policy.base_model_digest[:16]}…, found "
            f"{reply.base_model_digest[:16]}…. Agree with its operator on one base model."
        )
    return None


def cap_warning(reply: HelloReply, *, policy: AdmissionPolicy) -> str | None:
    """Say where a client may pay for more than this server admits.

    It need not come to that: a first run may cost far less than the cap. Where it does, the release
    is kept and admitted as soon as the limit is raised.

    Args:
        reply: How the client introduced itself.
        policy: What the server accepts.

    Returns:
        A sentence for the server's operator; None where the cap is within the limit, or not stated.
    """
    cap = reply.epsilon_cap
    if cap is None or cap <= policy.max_epsilon:
        return None
    return (
        f"{reply.client_name} may spend ε = {cap:g} over the lifetime of its records, and "
        f"admission.max_epsilon={policy.max_epsilon:g} would refuse a release that says so, after "
        "it is paid for. Raise max_epsilon first if you would accept it."
    )
