//! Core: the supervisor's page: one document, nothing from elsewhere, nothing to click that changes.
//!
//! The page is static; its script fetches `/status.json` every two seconds and writes all of it as
//! text, never as markup, since some of it comes from nodes. The policy names the page's own style
//! and script by a number used once, so that nothing else in it could ever run.

use axum::http::header;
use axum::response::{IntoResponse, Response};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page; `nonce` is random and never used twice.
pub(super) fn response(nonce: u128) -> Response {
    let nonce = format!("{nonce:032x}");
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, [(header::CONTENT_SECURITY_POLICY, policy)], html(&nonce)).into_response()
}

fn html(nonce: &str) -> String {
    PAGE.replace("{{style}}", STYLE).replace("{{script}}", SCRIPT).replace("{{nonce}}", nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let html = html("abc");
        assert!(!html.contains("{{"), "every mark is replaced");
        let rest = html.replace("http://www.w3.org/2000/svg", "");
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!rest.contains(outside), "the page has {outside}");
        }
        assert_eq!(html.matches(r#"nonce="abc""#).count(), 2);
    }

    #[test]
    fn the_script_never_writes_markup() {
        for danger in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!SCRIPT.contains(danger), "the script uses {danger}");
        }
    }

    #[test]
    fn the_policy_names_this_answers_own_number() {
        let response = response(7);
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().expect("ASCII");
        assert!(policy.starts_with("default-src 'none'; style-src 'nonce-0000000000000000"));
        assert!(!policy.contains("unsafe"));
    }
}
