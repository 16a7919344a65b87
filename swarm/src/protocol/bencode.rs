//! Core: bencoding (BEP 3), as much of it as torrents and announces need.
//!
//! The reader keeps references into the input and refuses deep nesting, so that hostile input can
//! neither make it copy nor exhaust the stack. It accepts the keys of a dictionary in any order,
//! because not every tracker sorts them as BEP 3 asks.

/// The maximum depth. A tracker's answer has a depth of three.
const MAX_DEPTH: u32 = 16;

/// One bencoded value, borrowed from the text it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Integer(i64),
    Bytes(&'a [u8]),
    List(Vec<Value<'a>>),
    Dict(Vec<(&'a [u8], Value<'a>)>),
}

impl<'a> Value<'a> {
    /// Reads one value that must fill `text` completely.
    pub(crate) fn read(text: &'a [u8]) -> Option<Self> {
        let mut reader = Reader { rest: text };
        let value = reader.value(MAX_DEPTH)?;
        reader.rest.is_empty().then_some(value)
    }

    /// The value of `key`, if this is a dictionary that has it.
    pub(crate) fn at(&self, key: &str) -> Option<&Value<'a>> {
        let Value::Dict(entries) = self else { return None };
        entries.iter().find(|(name, _)| *name == key.as_bytes()).map(|(_, value)| value)
    }

    pub(crate) fn integer(&self) -> Option<i64> {
        if let Value::Integer(number) = self { Some(*number) } else { None }
    }

    pub(crate) fn bytes(&self) -> Option<&'a [u8]> {
        if let Value::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    pub(crate) fn text(&self) -> Option<&'a str> {
        self.bytes().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: u32) -> Option<Value<'a>> {
        let depth = depth.checked_sub(1)?;
        match *self.rest.first()? {
            b'i' => {
                self.rest = &self.rest[1..];
                self.number(b'e').map(Value::Integer)
            }
            b'l' => {
                let mut items = Vec::new();
                self.until_end(|reader| {
                    items.push(reader.value(depth)?);
                    Some(())
                })?;
                Some(Value::List(items))
            }
            b'd' => {
                let mut entries = Vec::new();
                self.until_end(|reader| {
                    let key = reader.bytes()?;
                    entries.push((key, reader.value(depth)?));
                    Some(())
                })?;
                Some(Value::Dict(entries))
            }
            _ => self.bytes().map(Value::Bytes),
        }
    }

    fn until_end(&mut self, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.rest = &self.rest[1..];
        while *self.rest.first()? != b'e' {
            item(self)?;
        }
        self.rest = &self.rest[1..];
        Some(())
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number(b':')?).ok()?;
        let bytes = self.rest.get(..length)?;
        self.rest = &self.rest[length..];
        Some(bytes)
    }

    fn number(&mut self, end: u8) -> Option<i64> {
        let length = self.rest.iter().take(21).position(|byte| *byte == end)?;
        let number = std::str::from_utf8(&self.rest[..length]).ok()?.parse().ok()?;
        self.rest = &self.rest[length + 1..];
        Some(number)
    }
}

/// Appends a byte string.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
}

/// Appends an integer.
pub(crate) fn put_integer(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(format!("i{number}e").as_bytes());
}

/// Appends a dictionary key and its integer value. The caller appends keys in sorted order (BEP 3):
/// another order would be another infohash.
pub(crate) fn put_pair(out: &mut Vec<u8>, key: &str, number: u64) {
    put_bytes(out, key.as_bytes());
    put_integer(out, number);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nested_values_are_read() {
        let value = Value::read(b"d4:listli-7e3:abce1:xd1:yi2eee").expect("well-formed");
        assert_eq!(
            value.at("list"),
            Some(&Value::List(vec![Value::Integer(-7), Value::Bytes(b"abc")]))
        );
        assert_eq!(value.at("x").and_then(|x| x.at("y")).and_then(Value::integer), Some(2));
    }

    #[test]
    fn broken_text_is_refused() {
        for text in ["", "i", "ie", "i1", "5:abc", "-1:a", "d1:ae", "l", "i1ei2e", "99999999999:a"]
        {
            assert_eq!(Value::read(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let text = [vec![b'l'; 100_000], vec![b'e'; 100_000]].concat();
        assert_eq!(Value::read(&text), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            Value::read(&text);
        }
    }
}
