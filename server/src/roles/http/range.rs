//! Core: how a file is sent, complete or in part (RFC 9110 §14).

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
    match selection(range, total) {
        Selection::Complete => ((headers, bytes).into_response(), total as u64),
        Selection::Part(part) => {
            let content_range = format!("bytes {}-{}/{total}", part.start, part.end - 1);
            let length = part.len() as u64;
            let headers = (headers, [(header::CONTENT_RANGE, content_range)]);
            let body = bytes.slice(part);
            ((StatusCode::PARTIAL_CONTENT, headers.0, headers.1, body).into_response(), length)
        }
        Selection::Beyond => {
            let content_range = [(header::CONTENT_RANGE, format!("bytes */{total}"))];
            ((StatusCode::RANGE_NOT_SATISFIABLE, content_range).into_response(), 0)
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Selection {
    Complete,
    Part(Range<usize>),
    Beyond,
}

/// Reads a `Range` header. Several ranges, or anything else that is odd, get the complete file, as
/// RFC 9110 §14.2 allows.
fn selection(range: Option<&str>, total: usize) -> Selection {
    let Some(spec) = range.and_then(|range| range.trim().strip_prefix("bytes=")) else {
        return Selection::Complete;
    };
    let Some((first, last)) = spec.trim().split_once('-') else { return Selection::Complete };
    match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) if last < first => Selection::Complete,
        (Ok(first), _) if first >= total && (last.is_empty() || is_number(last)) => {
            Selection::Beyond
        }
        (Ok(first), Ok(last)) => Selection::Part(first..last.saturating_add(1).min(total)),
        (Ok(first), Err(_)) if last.is_empty() => Selection::Part(first..total),
        (Err(_), Ok(0)) if first.is_empty() => Selection::Beyond,
        (Err(_), Ok(_)) if first.is_empty() && total == 0 => Selection::Beyond,
        (Err(_), Ok(count)) if first.is_empty() => {
            Selection::Part(total.saturating_sub(count)..total)
        }
        _ => Selection::Complete,
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
            |range: &str, expected| assert_eq!(selection(Some(range), 100), expected, "{range}");
        check("bytes=0-9", Selection::Part(0..10));
        check("bytes=90-", Selection::Part(90..100));
        check("bytes=-5", Selection::Part(95..100));
        check("bytes=-500", Selection::Part(0..100));
        check("bytes=50-500", Selection::Part(50..100));
        check("bytes=99-99", Selection::Part(99..100));
        check("bytes=100-", Selection::Beyond);
        check("bytes=100-200", Selection::Beyond);
        check("bytes=-0", Selection::Beyond);
        for odd in ["bytes=9-1", "bytes=0-1,5-6", "bytes=", "bytes=-", "bytes=a-b", "lines=0-1"] {
            check(odd, Selection::Complete);
        }
        assert_eq!(selection(None, 100), Selection::Complete);
        assert_eq!(selection(Some("bytes=0-"), 0), Selection::Beyond);
    }

    proptest! {
        #[test]
        fn any_range_is_within_the_file(range in "(bytes=)?[0-9]{0,22}-?[0-9]{0,22}.?", total in 0..500_usize) {
            if let Selection::Part(part) = selection(Some(&range), total) {
                prop_assert!(part.start < part.end && part.end <= total);
            }
            response(Bytes::from(vec![0; total]), "text/plain", Some(&range));
        }
    }
}
