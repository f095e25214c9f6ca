"""Key agreement, key derivation, masks and sealed messages: `cryptography`'s primitives under the protocol's names.

| the paper's | here | source |
|---|---|---|
| KA | X25519, then HKDF-SHA256 bound to what the key is for | RFC 7748, RFC 5869 |
| PRG | ChaCha20's keystream under a key that is used once | RFC 8439 |
| AE | ChaCha20-Poly1305, the purpose authenticated | RFC 8439 |
"""

from __future__ import annotations

import secrets

import numpy as np

from decollapse.secure.encoding import Words

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as error:
    raise ImportError("secure aggregation needs cryptography: pip install 'decollapse[secure]'.") from error

SECRET_BYTES = 32
NONCE_BYTES = 12
BLOCK_WORDS = 1 << 17
"""Words of keystream at a time, so that a mask needs no second copy of itself."""


class SealBrokenError(ValueError):
    """A sealed message was changed, or was not for this client."""


def new_secret() -> bytes:
    """32 bytes from the operating system."""
    return secrets.token_bytes(SECRET_BYTES)


def derived(secret: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose: those of two purposes say nothing of each other, nor of the secret."""
    key: bytes = HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=None, info=purpose.encode()).derive(secret)
    return key


def public_key(private: bytes) -> bytes:
    """The public half of 32 private bytes, any."""
    public: bytes = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    return public


def agreed(private: bytes, public: bytes, purpose: str) -> bytes:
    """The key that the owner of `private` and the owner of `public` share for one purpose.

    >>> a, b = new_secret(), new_secret()
    >>> agreed(a, public_key(b), "greeting") == agreed(b, public_key(a), "greeting")
    True
    """
    shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    return derived(shared, purpose)


def add_mask(words: Words, key: bytes, *, sign: int = 1) -> None:
    """Add the keystream of `key` to `words` in place, modulo 2^64; `sign = -1` takes it away. One mask a key."""
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    zeros = bytes(8 * BLOCK_WORDS)
    for start in range(0, len(words), BLOCK_WORDS):
        block = words[start : start + BLOCK_WORDS]
        mask = np.frombuffer(stream.update(zeros[: 8 * len(block)]), dtype="<u8")
        if sign > 0:
            block += mask
        else:
            block -= mask


def sealed(message: bytes, key: bytes, purpose: str) -> bytes:
    """The message, readable and changeable by nobody without the key."""
    nonce = secrets.token_bytes(NONCE_BYTES)  # a key seals a second message where a phase is asked for twice
    return nonce + bytes(ChaCha20Poly1305(key).encrypt(nonce, message, purpose.encode()))


def opened(message: bytes, key: bytes, purpose: str) -> bytes:
    """What was sealed under the same key for the same purpose.

    Raises:
        SealBrokenError: it was not.
    """
    try:
        return bytes(ChaCha20Poly1305(key).decrypt(message[:NONCE_BYTES], message[NONCE_BYTES:], purpose.encode()))
    except InvalidTag:
        raise SealBrokenError("a sealed message was changed on its way, or is not for this client.") from None
