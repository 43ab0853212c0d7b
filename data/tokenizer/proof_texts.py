"""Texts on which two encoders are compared before one takes the place of the other."""

# One letter, or digit, that each version of Unicode since 12 has added: encoders that know different ones differ on these.
_NEWER = "\U00010e80\U00010570\U0001df00\U00011f04\U0001e4d0\U0002ebf0\U000105c0\U00010d4a\u1c89\U00010d40\U000323b0\U00010940\ua7ce"

_WORDS = (
    "The quick brown fox's fur, we'll see, they've said 'tis don't I'M HE'S It'D we’re",
    "def f(x: int) -> str:\n    return f\"{x:>08.3f}\"  # 12345678 0x1F\n\n\n\tif x:\r\n\t\tpass\r\n",
    "  leading and trailing  \n\n   \n x\u00a0y\u2003z\u3000w \u0085 \u1680 \u2028 \u180e \u200b\ufeff",
    "1 12 123 1234 12345 1,234.5 ٣٤٥ ½ Ⅷ ² 一二三 ๑๒",
    "Ünïcödé naïve cafe\u0301 ÅÅ ǅ ʰʲ ªº e\u0301\u0302x ǆungla",
    "中文分词，没有空格。日本語のテキスト、カタカナ。 한국어 텍스트 ไทย हिन्दी العربيّة עברית",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 a😀b \U0001f1e9\U0001f1ea →∑∫≠ —–… «»",
    "a.b/c\\d//e///\n/f http://x.y/z?q=1&r=%20 <tag attr='v'/> </s> <|endoftext|> [SEP] $#@!*()\n)\n\n;;\n ;",
    "camelCaseHTTPServerID XMLHttpRequest snake_case_name __init__ SCREAMING_CASE iPhone McDonald's ABC's ABCs",
    "\0\x01\x1b[0m\x7f\r\r\n\n\r \r \n\t \v\f x",
    "'s 'S 'ſ 'K 's's 'sx ' s ''ll 'LL 're're",
    "a" * 300 + " " * 300 + "b" + "." * 300 + "\n" * 300 + "=-" * 200 + "ab" * 200,
)
_EACH_NEWER = "".join(f" {character}1" for character in _NEWER)
PROOF_TEXTS = (*_WORDS, *(f"{text}\n" for text in _WORDS), _NEWER, " ".join(_NEWER), _EACH_NEWER, "", " ")
