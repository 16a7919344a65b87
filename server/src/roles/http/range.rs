//! Core: how a file is sent, whole or in part (RFC 9110 §14).

use std::ops::Range;

use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// The answer to a GET or HEAD of `bytes`, and the length of its body.
pub(super) fn response(
    bytes: Bytes,
    content_type: &'static str,
    range: Option<&str>,
) -> (Response, u64) {
    let total = bytes.len();
    let headers = [(header::CONTENT_TYPE, content_type), (header::ACCEPT_RANGES, "bytes")];
    match wanted(range, total) {
        Wanted::Whole => ((headers, bytes).into_response(), total as u64),
        Wanted::Part(part) => {
            let content_range = format!("bytes {}-{}/{total}", part.start, part.end - 1);
            let length = part.len() as u64;
            let headers = (headers, [(header::CONTENT_RANGE, content_range)]);
            let body = bytes.slice(part);
            ((StatusCode::PARTIAL_CONTENT, headers.0, headers.1, body).into_response(), length)
        }
        Wanted::Beyond => {
            let content_range = [(header::CONTENT_RANGE, format!("bytes */{total}"))];
            ((StatusCode::RANGE_NOT_SATISFIABLE, content_range).into_response(), 0)
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    Part(Range<usize>),
    Beyond,
}

/// Reads a `Range` header. Several ranges, or anything else that is odd, get the whole file, as
/// RFC 9110 §14.2 allows.
fn wanted(range: Option<&str>, total: usize) -> Wanted {
    let Some(spec) = range.and_then(|range| range.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else { return Wanted::Whole };
    match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) if last < first => Wanted::Whole,
        (Ok(first), _) if first >= total && (last.is_empty() || is_number(last)) => Wanted::Beyond,
        (Ok(first), Ok(last)) => Wanted::Part(first..last.saturating_add(1).min(total)),
        (Ok(first), Err(_)) if last.is_empty() => Wanted::Part(first..total),
        (Err(_), Ok(0)) if first.is_empty() => Wanted::Beyond,
        (Err(_), Ok(_)) if first.is_empty() && total == 0 => Wanted::Beyond,
        (Err(_), Ok(count)) if first.is_empty() => Wanted::Part(total.saturating_sub(count)..total),
        _ => Wanted::Whole,
    }
}

fn is_number(text: &str) -> bool {
    text.parse::<usize>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        let check =
            |range: &str, expected| assert_eq!(wanted(Some(range), 100), expected, "{range}");
        check("bytes=0-9", Wanted::Part(0..10));
        check("bytes=90-", Wanted::Part(90..100));
        check("bytes=-5", Wanted::Part(95..100));
        check("bytes=-500", Wanted::Part(0..100));
        check("bytes=50-500", Wanted::Part(50..100));
        check("bytes=99-99", Wanted::Part(99..100));
        check("bytes=100-", Wanted::Beyond);
        check("bytes=100-200", Wanted::Beyond);
        check("bytes=-0", Wanted::Beyond);
        for odd in ["bytes=9-1", "bytes=0-1,5-6", "bytes=", "bytes=-", "bytes=a-b", "lines=0-1"] {
            check(odd, Wanted::Whole);
        }
        assert_eq!(wanted(None, 100), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Beyond);
    }

    proptest! {
        #[test]
        fn any_range_is_within_the_file(range in "(bytes=)?[0-9]{0,22}-?[0-9]{0,22}.?", total in 0..500_usize) {
            if let Wanted::Part(part) = wanted(Some(&range), total) {
                prop_assert!(part.start < part.end && part.end <= total);
            }
            response(Bytes::from(vec![0; total]), "text/plain", Some(&range));
        }
    }
}
