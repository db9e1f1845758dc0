//! The wire: tags, varints, lengths.

use super::Fault;

#[derive(Clone, Copy)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// The fields of a message, in order. After an error there are no more.
pub(super) struct Parts<'a>(pub &'a [u8]);

fn cut_off() -> Fault {
    Fault::new("the message is cut off")
}

pub(super) fn text(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| Fault::new("the string is not valid UTF-8"))
}

impl<'a> Parts<'a> {
    pub(super) fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or_else(cut_off)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::new("a number is longer than ten bytes"))
    }

    pub(super) fn fixed64(&mut self) -> Result<u64, Fault> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Fault> {
        let length = usize::try_from(length).map_err(|_| cut_off())?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn part(&mut self) -> Result<(u32, Wire<'a>), Fault> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Fault::new("a tag is too large"))?;
        let wire = match tag & 7 {
            _ if number == 0 => return Err(Fault::new("a tag is zero")),
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(self.fixed64()?),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                let (bytes, rest) = self.0.split_first_chunk().ok_or_else(cut_off)?;
                self.0 = rest;
                Wire::Fixed32(u32::from_le_bytes(*bytes))
            }
            other => return Err(Fault::new(format!("wire type {other} is not known"))),
        };
        Ok((number, wire))
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u32, Wire<'a>), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_err() {
            self.0 = &[];
        }
        Some(part)
    }
}

/// A message that is being written.
pub(super) struct Out(pub Vec<u8>);

impl Out {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn tag(&mut self, number: u32, wire: u64) {
        self.raw_varint(u64::from(number) << 3 | wire);
    }

    pub(super) fn varint(&mut self, number: u32, value: u64) {
        self.tag(number, 0);
        self.raw_varint(value);
    }

    pub(super) fn fixed64(&mut self, number: u32, value: u64) {
        self.tag(number, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.tag(number, 2);
        self.raw_varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A message as the value of a field. Its length is known when it is written: most fit the one byte that is kept
    /// free, the others move.
    pub(super) fn nested<E>(
        &mut self,
        number: u32,
        write: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.tag(number, 2);
        let at = self.0.len();
        self.0.push(0);
        write(self)?;
        let length = self.0.len() - at - 1;
        if length < 0x80 {
            self.0[at] = length as u8;
        } else {
            let mut prefix = Self(Vec::with_capacity(5));
            prefix.raw_varint(length as u64);
            self.0.splice(at..=at, prefix.0);
        }
        Ok(())
    }
}
