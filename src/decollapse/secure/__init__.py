"""Secure aggregation: the server learns the sum of what a cohort sends, and no summand.

Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth, "Practical Secure Aggregation for
Privacy-Preserving Machine Learning", ACM CCS 2017, https://eprint.iacr.org/2017/281, figure 4 without the lines that
are for an active adversary. For a client u with the vector x_u, modulo 2^64,

    y_u = x_u + PRG(b_u) + sum_(v > u) PRG(s_uv) - sum_(v < u) PRG(s_uv)

The pairs' masks cancel in the sum. Of a client that sent y_u the server is told b_u; of one that dropped out, its
private key, and with it the s_uv that did not cancel. Of no client is it told both: each client sees to that itself.

| phase | a client sends | file |
|---|---|---|
| advertise keys | two public keys | `client.advertise` |
| share keys | a share of its secrets for each other client, encrypted | `client.share` |
| masked input | y_u | `client.mask` |
| unmasking | its shares of what the server needs | `client.unmask` |

`server` has what is done between them, `sums` turns results into what is summed, and `engine` runs it all.

What it protects, and against whom
----------------------------------
Against a server that follows the protocol and tries to learn from all it sees, together with up to t - 1 of the n
clients that do the same, t being the threshold: they learn the sum over the other clients that answered, and nothing
else of them. At least t clients have answered, or nothing is unmasked. With c clients among the curious, the sum is
over t - c or more others; with c = t - 1 that may be one, whose summand is then known. The default,
t = floor(2 n / 3) + 1, lets nearly a third of the clients drop out.

What it does not protect
------------------------
- The sum itself, nor what can be inferred from it: models and spectra can be inverted, and a sum over few clients says
  much of each. With 2 clients each knows the other's summand from the sum. Add differential privacy
  (`decollapse.privacy`), and take cohorts of tens of clients.
- From one round to the next: two sums over cohorts that differ in one client differ in that client's summand, as far
  as clients send the same again.
- Against a server that does not follow the protocol: it may make up clients, or put its own keys in the place of
  theirs, since nobody signs keys here; a client finds out if its own are changed, no more. As more than half of the
  clients are needed to unmask, telling two stories of who dropped out does not give both secrets of a client, unless
  2 t - n or more clients help; that much holds without the signatures of the paper's last section.
- Against clients that send a false summand: the server cannot see, guard or clip what it adds up. Each client refuses
  to send what is not finite or out of range; one that does not obey can spoil a round, and poison a model.
- Who took part, when, how long it took, that it failed and why, names and shapes of the tensors: these are in the open.
- The client's own machine: whoever has its root secret has its masks.

Departures from the paper: keys are X25519 and masks ChaCha20 instead of a finite-field group and AES; keys of several
sums can be exchanged at once (each sum has its own, derived from one root secret by HKDF, so that what is revealed for
one says nothing of another); shares are decrypted when they are needed and may be kept by the server until then.

Needs the extra `secure`: `pip install 'decollapse[secure]'`.
"""

from decollapse.secure.encoding import FixedPoint, Layout, OutOfRangeError
from decollapse.secure.engine import SecureEngine, SecureSumError
from decollapse.secure.messages import ProtocolError, Session
from decollapse.secure.reach import InProcess, Reach

__all__ = [
    "FixedPoint",
    "InProcess",
    "Layout",
    "OutOfRangeError",
    "ProtocolError",
    "Reach",
    "SecureEngine",
    "SecureSumError",
    "Session",
]
