//! Compiles the screens in `ui/` and embeds the pictures they name.

use slint_build::{CompilerConfiguration, EmbedResourcesKind};

fn main() {
    let config = CompilerConfiguration::new()
        .embed_resources(EmbedResourcesKind::EmbedFiles)
        .with_style("fluent-dark".into());
    slint_build::compile_with_config("ui/app.slint", config).expect("the screens in ui/ compile");
}
