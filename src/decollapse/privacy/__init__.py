"""Differential privacy: noise that hides whether one example, or one client, was there at all.

A mechanism M is (epsilon, delta)-differentially private if for any two neighbouring data sets D and D', and any set S
of outcomes, `P[M(D) in S] <= e^epsilon P[M(D') in S] + delta` (Dwork, McSherry, Nissim, Smith, TCC 2006).

| what is released | neighbours differ in | file |
|---|---|---|
| the model of each round | the update of one client, there or zero | `private_mean` |
| the feature statistics of the federated spectrum | one example, there or not | `private_statistics` |

`gaussian` has the noise and its exact epsilon; `accounting` the epsilon of a run, where cohorts are secret.

What is private is what the noise is added to, and no more: not the records of a run folder (each client's number of
examples, loss and norm are in it as they are), not the messages of a client to a server that adds the noise itself.
Secure aggregation (`decollapse.secure`) hides those.
"""
