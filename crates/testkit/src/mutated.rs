//! What becomes of good inputs when somebody tampers with them.

/// `count` inputs, made of `seeds` by changing, removing, repeating and mixing a few of their bytes;
/// the same ones every time.
///
/// # Panics
///
/// Without seeds.
pub fn mutated(seeds: &[Vec<u8>], count: usize) -> impl Iterator<Item = Vec<u8>> + '_ {
    assert!(!seeds.is_empty(), "no seeds");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    (0..count).map(move |n| {
        let mut input = seeds[n % seeds.len()].clone();
        for _ in 0..=random.below(4) {
            change(&mut input, &seeds[random.below(seeds.len())], &mut random);
        }
        input
    })
}

fn change(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let end = (at + 1 + random.below(16)).min(input.len());
    match random.below(6) {
        // A bit, a byte that means something, a few bytes gone.
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = b"\0\xff\x7f\x80{}[]()\"'\\:,.$%\n "[random.below(20)],
        2 if at < end => drop(input.drain(at..end)),
        // A part once more, or many times.
        3 if at < end => {
            let part = input[at..end].repeat(1 + random.below(40));
            drop(input.splice(at..at, part));
        }
        // The end cut off, or another one's.
        4 => input.truncate(at),
        _ => {
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
    }
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end.max(1)).expect("a length")).expect("a length")
    }
}
