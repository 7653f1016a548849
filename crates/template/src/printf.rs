//! Go's printf, for the values a template can have.

use crate::{
    MAX_DEPTH,
    float::float,
    out::Out,
    val::{List, Map, Meter, Val},
};

/// The largest width or precision.
const MAX_NUMBER: usize = 1_000_000;

#[derive(Clone, Copy, Default)]
struct Flags {
    minus: bool,
    plus: bool,
    /// `%+v`, which differs from `%v` for structs alone.
    plus_v: bool,
    precision: Option<usize>,
    sharp: bool,
    /// `%#v`: Go syntax.
    sharp_v: bool,
    space: bool,
    width: Option<usize>,
    zero: bool,
}

pub(crate) fn sprintf(text: &str, args: &[Val<'_>], meter: &Meter) -> Result<String, String> {
    let mut out = Out::new(meter);
    let mut run = Run { rest: text, args, next: 0, reordered: false, index_is_good: true };
    while let Some(at) = run.rest.find('%') {
        let (before, directive) = run.rest.split_at(at);
        out.push(before)?;
        run.rest = directive.get(1..).unwrap_or_default();
        run.directive(&mut out)?;
    }
    out.push(run.rest)?;
    if !run.reordered && run.next < args.len() {
        out.push("%!(EXTRA ")?;
        for (at, arg) in args.iter().skip(run.next).enumerate() {
            if at > 0 {
                out.push(", ")?;
            }
            if matches!(arg, Val::Nil | Val::Missing) {
                out.push("<nil>")?;
            } else {
                out.push(arg.type_name())?;
                out.push("=")?;
                Printer::new(&mut out).arg(arg, 'v')?;
            }
        }
        out.push(")")?;
    }
    Ok(out.into_text())
}

/// Reading a format.
struct Run<'t, 'a, 'v> {
    rest: &'t str,
    args: &'a [Val<'v>],
    next: usize,
    reordered: bool,
    index_is_good: bool,
}

impl Run<'_, '_, '_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn directive(&mut self, out: &mut Out<'_>) -> Result<(), String> {
        self.index_is_good = true;
        let mut flags = Flags::default();
        while let Some(c) = self.peek() {
            match c {
                '#' => flags.sharp = true,
                '0' => flags.zero = true,
                '+' => flags.plus = true,
                '-' => flags.minus = true,
                ' ' => flags.space = true,
                _ => break,
            }
            self.skip(1);
        }
        let mut after_index = self.index();
        if self.peek() == Some('*') {
            self.skip(1);
            match self.number_from_arg() {
                None => out.push("%!(BADWIDTH)")?,
                Some(width) => {
                    if width < 0 {
                        flags.minus = true;
                        flags.zero = false;
                    }
                    flags.width = usize::try_from(width.unsigned_abs()).ok();
                }
            }
            after_index = false;
        } else {
            flags.width = self.number();
            if after_index && flags.width.is_some() {
                self.index_is_good = false;
            }
        }
        if self.peek() == Some('.') {
            self.skip(1);
            if after_index {
                self.index_is_good = false;
            }
            after_index = self.index();
            if self.peek() == Some('*') {
                self.skip(1);
                let precision = self.number_from_arg();
                flags.precision = precision.and_then(|precision| usize::try_from(precision).ok());
                if flags.precision.is_none() {
                    out.push("%!(BADPREC)")?;
                }
                after_index = false;
            } else {
                flags.precision = Some(self.number().unwrap_or(0));
            }
        }
        if !after_index {
            self.index();
        }
        let Some(verb) = self.peek() else { return out.push("%!(NOVERB)") };
        self.skip(verb.len_utf8());
        self.print(out, verb, flags)
    }

    fn print(&mut self, out: &mut Out<'_>, verb: char, mut flags: Flags) -> Result<(), String> {
        if verb == '%' {
            return out.push("%");
        }
        if !self.index_is_good {
            return out.push(&format!("%!{verb}(BADINDEX)"));
        }
        let Some(arg) = self.args.get(self.next) else {
            return out.push(&format!("%!{verb}(MISSING)"));
        };
        self.next += 1;
        if verb == 'v' {
            flags.sharp_v = flags.sharp;
            flags.sharp = false;
            flags.plus_v = flags.plus;
            flags.plus = false;
        }
        Printer { out, flags, depth: 0 }.arg(arg, verb)
    }

    /// `[n]`, if it is there: the argument to use next.
    fn index(&mut self) -> bool {
        if self.peek() != Some('[') {
            return false;
        }
        self.reordered = true;
        let Some(close) = self.rest.find(']') else {
            self.index_is_good = false;
            self.skip(1);
            return false;
        };
        let digits = self.rest.get(1..close).unwrap_or_default();
        let number = parse_number(digits);
        self.skip(close + 1);
        match number {
            Some(number) if (1..=self.args.len()).contains(&number) => {
                self.next = number - 1;
                true
            }
            number => {
                self.index_is_good = false;
                number.is_some()
            }
        }
    }

    fn number(&mut self) -> Option<usize> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let number = parse_number(self.rest.get(..end)?);
        self.skip(end);
        number
    }

    fn number_from_arg(&mut self) -> Option<i64> {
        let arg = self.args.get(self.next)?;
        self.next += 1;
        let Val::Int(number) = arg else { return None };
        let fits = usize::try_from(number.unsigned_abs()).is_ok_and(|size| size <= MAX_NUMBER);
        fits.then_some(*number)
    }
}

fn parse_number(digits: &str) -> Option<usize> {
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let number = is_number.then(|| digits.parse::<usize>().ok()).flatten()?;
    (number <= MAX_NUMBER).then_some(number)
}

/// Prints values by one verb with its flags.
pub(crate) struct Printer<'o, 'm> {
    out: &'o mut Out<'m>,
    flags: Flags,
    depth: usize,
}

impl<'o, 'm> Printer<'o, 'm> {
    pub fn new(out: &'o mut Out<'m>) -> Self {
        Self { out, flags: Flags::default(), depth: 0 }
    }

    /// One value of the arguments, or in a list or map.
    pub fn arg(&mut self, value: &Val<'_>, verb: char) -> Result<(), String> {
        self.out.meter.spend(1)?;
        match (value, verb) {
            (Val::Missing | Val::Nil, _) if self.depth > 0 => {
                self.out.push(if self.flags.sharp_v { "interface {}(nil)" } else { "<nil>" })
            }
            (Val::Missing | Val::Nil, 'T' | 'v') => self.pad("<nil>"),
            (Val::NilPointer, 'v') => self.pad("<nil>"),
            // An address, which is 0.
            (Val::NilPointer, 'b' | 'd' | 'o' | 'x' | 'X') => self.int(0, verb),
            (value, 'T') => self.text(value.type_name(), 's'),
            (Val::Struct(_), _) => {
                Err("a struct cannot be printed: name the field that is wanted".to_owned())
            }
            (Val::List(_) | Val::Map(_), 'p') => {
                Err("%p prints an address, which is not supported".to_owned())
            }
            (Val::Bool(value), 't' | 'v') => self.pad(if *value { "true" } else { "false" }),
            (Val::Int(value), 'b' | 'c' | 'd' | 'o' | 'O' | 'q' | 'U' | 'v' | 'x' | 'X') => {
                self.int(*value, verb)
            }
            (Val::Float(value), 'e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'v') => {
                self.float(*value, verb)
            }
            (Val::Float(_), 'b' | 'x' | 'X') => Err(format!("%{verb} of a float is not supported")),
            (Val::Text(text), 'q' | 's' | 'v' | 'x' | 'X') => self.text(text, verb),
            (Val::List(_) | Val::Map(_), 'w') if self.depth == 0 => self.bad_verb(value, verb),
            (Val::List(list), _) => self.list(list, value.type_name(), verb),
            (Val::Map(map), _) => self.map(map, value.type_name(), verb),
            _ => self.bad_verb(value, verb),
        }
    }

    fn bad_verb(&mut self, value: &Val<'_>, verb: char) -> Result<(), String> {
        self.out.push(&format!("%!{verb}("))?;
        if matches!(value, Val::Missing | Val::Nil) {
            self.out.push("<nil>")?;
        } else {
            self.out.push(value.type_name())?;
            self.out.push("=")?;
            self.arg(value, 'v')?;
        }
        self.out.push(")")
    }

    fn nested(
        &mut self,
        print: impl FnOnce(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        if self.depth >= MAX_DEPTH {
            return Err(format!("a value nested more than {MAX_DEPTH} deep"));
        }
        self.depth += 1;
        let result = print(self);
        self.depth -= 1;
        result
    }

    fn list(&mut self, list: &List<'_>, type_name: &str, verb: char) -> Result<(), String> {
        let sharp = self.flags.sharp_v;
        if sharp {
            self.out.push(type_name)?;
        }
        self.out.push(if sharp { "{" } else { "[" })?;
        for (at, element) in list.iter().enumerate() {
            if at > 0 {
                self.out.push(if sharp { ", " } else { " " })?;
            }
            self.nested(|this| this.arg(&element, verb))?;
        }
        self.out.push(if sharp { "}" } else { "]" })
    }

    fn map(&mut self, map: &Map<'_>, type_name: &str, verb: char) -> Result<(), String> {
        let sharp = self.flags.sharp_v;
        self.out.push(if sharp { type_name } else { "map" })?;
        self.out.push(if sharp { "{" } else { "[" })?;
        for (at, (key, value)) in map.pairs(self.out.meter)?.iter().enumerate() {
            if at > 0 {
                self.out.push(if sharp { ", " } else { " " })?;
            }
            self.nested(|this| this.arg(key, verb))?;
            self.out.push(":")?;
            self.nested(|this| this.arg(value, verb))?;
        }
        self.out.push(if sharp { "}" } else { "]" })
    }

    fn pad(&mut self, text: &str) -> Result<(), String> {
        let with = if self.flags.zero && !self.flags.minus { '0' } else { ' ' };
        self.pad_with(text, with)
    }

    fn pad_with(&mut self, text: &str, with: char) -> Result<(), String> {
        let missing = self.flags.width.unwrap_or(0).saturating_sub(text.chars().count());
        if self.flags.minus {
            self.out.push(text)?;
            self.out.pad(' ', missing)
        } else {
            self.out.pad(with, missing)?;
            self.out.push(text)
        }
    }

    fn text(&mut self, text: &str, verb: char) -> Result<(), String> {
        let cut = match self.flags.precision {
            Some(count) => text
                .char_indices()
                .nth(count)
                .map_or(text, |(at, _)| text.get(..at).unwrap_or(text)),
            None => text,
        };
        match verb {
            'q' => self.pad(&self.quoted(cut)),
            'v' if self.flags.sharp_v => self.pad(&self.quoted(cut)),
            'x' | 'X' => self.hex(text, verb),
            _ => self.pad(cut),
        }
    }

    fn quoted(&self, text: &str) -> String {
        let can_backquote = !text.chars().any(|c| c == '`' || c == '\u{feff}' || is_control(c));
        if self.flags.sharp && can_backquote {
            return format!("`{text}`");
        }
        quote(text, '"', self.flags.plus)
    }

    fn hex(&mut self, text: &str, verb: char) -> Result<(), String> {
        let Flags { space, sharp, .. } = self.flags;
        let prefix = if verb == 'x' { "0x" } else { "0X" };
        let mut shown = String::new();
        for (at, byte) in text.bytes().take(self.flags.precision.unwrap_or(usize::MAX)).enumerate()
        {
            if at > 0 && space {
                shown.push(' ');
            }
            if sharp && (at == 0 || space) {
                shown.push_str(prefix);
            }
            shown.push_str(&match verb {
                'x' => format!("{byte:02x}"),
                _ => format!("{byte:02X}"),
            });
            if shown.len() > crate::MAX_RESULT {
                break;
            }
        }
        self.pad(&shown)
    }

    fn int(&mut self, value: i64, verb: char) -> Result<(), String> {
        let flags = self.flags;
        let size = value.unsigned_abs();
        let digits = match verb {
            'b' => format!("{size:b}"),
            'c' => return self.pad(&char_of(value).to_string()),
            'q' => return self.pad(&quote(&char_of(value).to_string(), '\'', flags.plus)),
            'o' | 'O' => format!("{size:o}"),
            'U' => return self.unicode(value),
            'x' => format!("{size:x}"),
            'X' => format!("{size:X}"),
            _ => size.to_string(),
        };
        let negative = value < 0;
        let signed = negative || flags.plus || flags.space;
        let wanted = match (flags.precision, flags.width) {
            (Some(0), _) if value == 0 => {
                return self.out.pad(' ', flags.width.unwrap_or(0));
            }
            (Some(precision), _) => precision,
            (None, Some(width)) if flags.zero && !flags.minus => {
                width.saturating_sub(usize::from(signed))
            }
            (None, _) => 0,
        };
        let zeros = "0".repeat(wanted.saturating_sub(digits.len()));
        let digits = zeros + &digits;
        let prefix = match verb {
            'b' if flags.sharp => "0b",
            'o' if flags.sharp && !digits.starts_with('0') => "0",
            'O' if flags.sharp && !digits.starts_with('0') => "0o0",
            'O' => "0o",
            'x' if flags.sharp => "0x",
            'X' if flags.sharp => "0X",
            _ => "",
        };
        let sign = match (negative, flags.plus, flags.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (.., true) => " ",
            _ => "",
        };
        self.pad_with(&format!("{sign}{prefix}{digits}"), ' ')
    }

    fn unicode(&mut self, value: i64) -> Result<(), String> {
        let code = value.cast_unsigned();
        let digits = self.flags.precision.unwrap_or(0).max(4);
        let mut shown = format!("U+{code:0digits$X}");
        if self.flags.sharp
            && let Some(c) = u32::try_from(code).ok().and_then(char::from_u32)
            && is_print(c)
        {
            shown = format!("{shown} '{c}'");
        }
        self.pad_with(&shown, ' ')
    }

    fn float(&mut self, value: f64, verb: char) -> Result<(), String> {
        let flags = self.flags;
        let (verb, default) = match verb {
            'e' | 'E' => (verb, Some(6)),
            'f' | 'F' => ('f', Some(6)),
            'v' => ('g', None),
            verb => (verb, None),
        };
        let precision = flags.precision.or(default).map(|digits| digits.min(crate::MAX_RESULT));
        if precision.is_some_and(|digits| digits > usize::from(u16::MAX)) {
            return Err("a float with more than 65535 digits".to_owned());
        }
        let signed = float(value, verb, precision);
        let unsigned = signed.get(1..).unwrap_or_default();
        let mut shown = match signed.starts_with('-') {
            true => signed.clone(),
            false if flags.plus => signed.clone(),
            false if flags.space => format!(" {unsigned}"),
            false => unsigned.to_owned(),
        };
        if !value.is_finite() {
            let bare = shown.ends_with("Inf") && !shown.starts_with(['-', '+', ' ']);
            if bare {
                shown = format!("+{unsigned}");
            }
            return self.pad_with(&shown, ' ');
        }
        if flags.sharp {
            return Err("%# of a float is not supported".to_owned());
        }
        let missing = flags.width.unwrap_or(0).saturating_sub(shown.len());
        let signed = shown.starts_with(['-', '+', ' ']);
        if flags.zero && !flags.minus && signed {
            shown.insert_str(1, &"0".repeat(missing));
        }
        self.pad(&shown)
    }
}

fn char_of(value: i64) -> char {
    u32::try_from(value).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn is_control(c: char) -> bool {
    (c < ' ' && c != '\t') || c == '\x7f'
}

/// Whether Go counts `c` as printable.
pub(crate) fn is_print(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    // Behind another character a combining one is not escaped for combining alone.
    !format!("a{c}").escape_debug().any(|c| c == '\\')
}

/// `text` between `quote`s with what cannot be printed, or is not ASCII, escaped.
pub(crate) fn quote(text: &str, quote: char, ascii: bool) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            c if c == quote || c == '\\' => out.extend(['\\', c]),
            c if c.is_ascii() && is_print(c) => out.push(c),
            c if !c.is_ascii() && !ascii && is_print(c) => out.push(c),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if c < ' ' || c == '\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if u32::from(c) < 0x10000 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push(quote);
    out
}
