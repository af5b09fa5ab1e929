"""What a hostile file is made of."""

NUMBERS = [-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 64, 255, 2**16, 2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**63 - 1]
TEXTS = ["", "1", "\x1b[2J", "1\nmatrix 1 x 1", "\u202eabc", "a\u200b", "'same_upper'", "zeros", "auto", "x" * 9000]


def shaken(draw, data):
    """These bytes with a few changed, cut out or put in."""
    data = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        at = draw.randrange(len(data)) if data else 0
        change = draw.choice(["flip", "flip", "set", "cut", "put", "end"])
        if change == "cut" or not data:
            del data[at : at + draw.choice([1, 4, 64])]
        elif change == "put":
            data[at:at] = draw.randbytes(draw.choice([1, 4, 64]))
        elif change == "end":
            del data[at:]
        else:
            data[at] = data[at] ^ 1 << draw.randrange(8) if change == "flip" else draw.randrange(256)
    return bytes(data)
