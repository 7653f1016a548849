//! sprig: base 64, base 32 and Adler-32.

use crate::{
    function::{Function, Type, text},
    val::{Heap, Val},
};

type Made<'v> = Result<Val<'v>, String>;

const T: &[Type] = &[Type::Text];

pub(super) const FUNCTIONS: &[Function] = &[
    Function { name: "adler32sum", params: T, rest: None, run: adler32 },
    Function {
        name: "b32dec",
        params: T,
        rest: None,
        run: |heap, args| decode(heap, args, &BASE32),
    },
    Function {
        name: "b32enc",
        params: T,
        rest: None,
        run: |heap, args| encode(heap, args, &BASE32),
    },
    Function {
        name: "b64dec",
        params: T,
        rest: None,
        run: |heap, args| decode(heap, args, &BASE64),
    },
    Function {
        name: "b64enc",
        params: T,
        rest: None,
        run: |heap, args| encode(heap, args, &BASE64),
    },
];

/// A code that writes groups of `digits` digits of `bits` bits each, padded with `=`.
struct Base {
    name: &'static str,
    alphabet: &'static [u8],
    bits: usize,
    digits: usize,
}

const BASE32: Base =
    Base { name: "base32", alphabet: b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", bits: 5, digits: 8 };
const BASE64: Base = Base {
    name: "base64",
    alphabet: b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    bits: 6,
    digits: 4,
};

impl Base {
    fn encode(&self, bytes: &[u8]) -> String {
        let mut out = String::new();
        let (mut held, mut count) = (0_u32, 0);
        let digit = |value: u32| {
            let at = usize::try_from(value).unwrap_or(0) % self.alphabet.len();
            self.alphabet.get(at).copied().map_or('=', char::from)
        };
        for byte in bytes {
            held = (held << 8) | u32::from(*byte);
            count += 8;
            while count >= self.bits {
                count -= self.bits;
                out.push(digit(held >> count));
                held &= (1 << count) - 1;
            }
        }
        if count > 0 {
            out.push(digit(held << (self.bits - count)));
        }
        while !out.len().is_multiple_of(self.digits) {
            out.push('=');
        }
        out
    }

    /// The bytes, or at which byte of the text it is wrong.
    fn decode(&self, text: &str) -> Result<Vec<u8>, usize> {
        let mut out = Vec::new();
        let (mut held, mut count, mut digits) = (0_u32, 0, 0);
        let mut marks = text.bytes().enumerate().filter(|(_, b)| !matches!(b, b'\r' | b'\n'));
        while let Some((at, byte)) = marks.next() {
            if byte == b'=' {
                let place = digits % self.digits;
                let known = match self.bits {
                    6 => matches!(place, 2 | 3),
                    _ => matches!(place, 2 | 4 | 5 | 7),
                };
                let missing = self.digits - place;
                let pads = marks.by_ref().take(missing - 1);
                let (mut seen, mut wrong) = (1, None);
                for (at, byte) in pads {
                    seen += 1;
                    if byte != b'=' && wrong.is_none() {
                        wrong = Some(at);
                    }
                }
                return match (known, wrong, marks.next()) {
                    (false, ..) => Err(at),
                    (true, Some(wrong), _) => Err(wrong),
                    (true, None, Some((at, _))) => Err(at),
                    (true, None, None) if seen < missing => Err(text.len()),
                    (true, None, None) => Ok(out),
                };
            }
            let Some(value) = self.alphabet.iter().position(|digit| *digit == byte) else {
                return Err(at);
            };
            held = (held << self.bits) | u32::try_from(value).unwrap_or(0);
            count += self.bits;
            digits += 1;
            if count >= 8 {
                count -= 8;
                out.push(u8::try_from((held >> count) & 0xff).unwrap_or(0));
                held &= (1 << count) - 1;
            }
        }
        if digits % self.digits == 0 {
            return Ok(out);
        }
        Err(text.len() - (digits % self.digits).min(text.len()))
    }
}

fn encode<'v>(heap: &Heap<'v>, args: &[Val<'v>], base: &Base) -> Made<'v> {
    heap.text(&base.encode(text(args, 0)?.as_bytes()))
}

/// What is wrong with a text is the result, as sprig has it.
fn decode<'v>(heap: &Heap<'v>, args: &[Val<'v>], base: &Base) -> Made<'v> {
    match base.decode(text(args, 0)?) {
        Ok(bytes) => {
            let decoded = String::from_utf8(bytes);
            heap.text(&decoded.map_err(|_| "the decoded bytes are not UTF-8".to_owned())?)
        }
        Err(at) => heap.text(&format!("illegal {} data at input byte {at}", base.name)),
    }
}

fn adler32<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    const MODULUS: u32 = 65521;
    let whole = text(args, 0)?;
    heap.spend_text(whole.len())?;
    let (mut low, mut high) = (1_u32, 0_u32);
    for byte in whole.bytes() {
        low = (low + u32::from(byte)) % MODULUS;
        high = (high + low) % MODULUS;
    }
    heap.text(&((high << 16) | low).to_string())
}
