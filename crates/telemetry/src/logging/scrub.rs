//! The last look at a line before it is written.
//!
//! Nothing secret should get this far: secret types print `***`. What slips through inside foreign text (an error
//! that quotes a database URL, a PEM block in a dump) is taken out here. A line break inside a text line is written as `\n`,
//! so that no peer can forge log lines.

use std::borrow::Cow;
use std::io::{self, Write};

use super::Format;

const REMOVED: &str = "***";

/// A field whose name ends in one of these has its value removed.
const SECRET_NAMES: [&str; 4] = ["password", "passphrase", "secret", "token"];

/// Cleans each line on its way to `W`. One `write` is one line.
pub(super) struct Scrub<W> {
    inner: W,
    format: Format,
}

impl<W: Write> Scrub<W> {
    pub(super) fn new(inner: W, format: Format) -> Self {
        Self { inner, format }
    }
}

impl<W: Write> Write for Scrub<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let mut clean = redact(&text);
        if self.format == Format::Text {
            clean = one_line(clean);
        }
        self.inner.write_all(clean.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn one_line(line: Cow<'_, str>) -> Cow<'_, str> {
    let body = line.strip_suffix('\n').unwrap_or(&line);
    if !body.contains(['\n', '\r']) {
        return line;
    }
    Cow::Owned(format!(
        "{}\n",
        body.replace('\r', "\\r").replace('\n', "\\n")
    ))
}

/// `line` without private keys, passwords in URLs, bearer tokens and values of fields with a secret name.
fn redact(line: &str) -> Cow<'_, str> {
    let mut line = Cow::Borrowed(line);
    for find in [private_key, url_password, bearer, named_secret] {
        let mut from = 0;
        while let Some((start, end)) = find(&line, from) {
            let mut text = line.into_owned();
            text.replace_range(start..end, REMOVED);
            line = Cow::Owned(text);
            from = start + REMOVED.len();
        }
    }
    line
}

/// From `-----BEGIN … PRIVATE KEY-----` to the end marker, or to the end where that is missing.
fn private_key(line: &str, from: usize) -> Option<(usize, usize)> {
    const MARK: &str = "PRIVATE KEY-----";
    let mark = from + line.get(from..)?.find(MARK)?;
    let start = line[from..mark]
        .rfind("-----BEGIN")
        .map_or(mark, |at| from + at);
    let after = mark + MARK.len();
    let end = line[after..]
        .find(MARK)
        .map_or(line.trim_end().len().max(after), |at| {
            after + at + MARK.len()
        });
    Some((start, end))
}

/// `pass` in `scheme://user:pass@host`.
fn url_password(line: &str, from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    loop {
        let authority = at + line.get(at..)?.find("://")? + 3;
        let length = line[authority..].find(|c: char| c.is_whitespace() || "/\"'?#".contains(c));
        let end = length.map_or(line.len(), |length| authority + length);
        let found = line[authority..end].rfind('@').and_then(|host| {
            let colon = line[authority..authority + host].find(':')?;
            Some((authority + colon + 1, authority + host))
        });
        match found {
            Some((start, end)) if start < end && &line[start..end] != REMOVED => {
                return Some((start, end));
            }
            _ => at = authority,
        }
    }
}

/// What follows `Bearer `.
fn bearer(line: &str, from: usize) -> Option<(usize, usize)> {
    let rest = line.get(from..)?;
    let start = from + rest.find("Bearer ").or_else(|| rest.find("bearer "))? + "Bearer ".len();
    let end = value_end(line, start);
    if start < end {
        Some((start, end))
    } else {
        bearer(line, end)
    }
}

/// The value in `admin_token=…`, `"password":"…"` or `password: …`.
fn named_secret(line: &str, from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    loop {
        let rest = line.get(at..)?;
        let (name, length) = SECRET_NAMES
            .iter()
            .filter_map(|name| Some((rest.find(name)?, name.len())))
            .min()?;
        let after = at + name + length;
        let separator = ["\":\"", "\": \"", "=\"", "=", ": \"", ": "]
            .iter()
            .find(|s| line[after..].starts_with(**s));
        if let Some(separator) = separator {
            let start = after + separator.len();
            let quoted = separator.ends_with('"');
            let end = if quoted {
                quote_end(line, start)
            } else {
                value_end(line, start)
            };
            if start < end && !line[start..end].starts_with(REMOVED) {
                return Some((start, end));
            }
        }
        at = after;
    }
}

fn value_end(line: &str, start: usize) -> usize {
    let length = line[start..].find(|c: char| c.is_whitespace() || "\"',;)}]".contains(c));
    length.map_or(line.len(), |length| start + length)
}

/// The next quote that no backslash escapes.
fn quote_end(line: &str, start: usize) -> usize {
    let mut escaped = false;
    for (at, c) in line[start..].char_indices() {
        match c {
            '"' if !escaped => return start + at,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    line.trim_end().len().max(start)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn given_lines_with_secrets_when_redacted_then_only_the_secret_is_gone() {
        for (line, clean) in [
            (
                "db postgresql://discovery:hunter2@localhost/x failed",
                "db postgresql://discovery:***@localhost/x failed",
            ),
            (
                "a http://u:p@h/ b https://v:q@i/",
                "a http://u:***@h/ b https://v:***@i/",
            ),
            (
                "key -----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY----- end",
                "key *** end",
            ),
            ("key -----BEGIN EC PRIVATE KEY-----\nMC4C", "key ***"),
            (
                "header Authorization: Bearer abc.def next",
                "header Authorization: Bearer *** next",
            ),
            ("admin_token=abc other=1", "admin_token=*** other=1"),
            (
                r#"{"fields":{"password":"a\"b","n":1}}"#,
                r#"{"fields":{"password":"***","n":1}}"#,
            ),
            ("join token=\"ab cd\" done", "join token=\"***\" done"),
        ] {
            assert_eq!(redact(line), clean, "{line}");
        }
    }

    #[test]
    fn given_lines_without_secrets_when_redacted_then_nothing_changes() {
        for line in [
            "listening on http://127.0.0.1:8080/health",
            "token file is /var/lib/warren/admin.token",
            "dial /ip4/10.0.1.5/tcp/4001/p2p/12D3KooW",
            "https://[::1]:8080/x@y",
            "Bearer ",
            "no token",
        ] {
            assert_eq!(redact(line), line);
        }
    }

    #[test]
    fn given_a_line_break_in_a_text_line_when_written_then_it_is_one_line() {
        let mut out = Vec::new();

        Scrub::new(&mut out, Format::Text)
            .write_all(b"peer said hi\nINFO forged\n")
            .unwrap();

        assert_eq!(
            String::from_utf8(out).unwrap(),
            "peer said hi\\nINFO forged\n"
        );
    }

    #[test]
    fn given_arbitrary_bytes_when_written_then_nothing_panics() {
        use proptest::prelude::*;
        proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 0..200))| {
            Scrub::new(io::sink(), Format::Text).write_all(&bytes).unwrap();
        });
        proptest!(|(line in "(token|=|\"|://|@|:|Bearer |PRIVATE KEY-----|-----BEGIN|é|\\\\| ){0,20}")| {
            Scrub::new(io::sink(), Format::Json).write_all(line.as_bytes()).unwrap();
        });
    }
}
