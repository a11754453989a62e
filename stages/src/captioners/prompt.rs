//! What a captioner is asked, and how its words are taken.

use manifests::digest;

use crate::train_rows::key_of_digest;

/// A template with the image's tags in plain words, or the one for images that have none.
pub(super) fn prompt_of(template: &str, without_tags: &str, tags: Option<&str>) -> String {
    match tags {
        Some(tags) => template.replace("{tags}", tags),
        None => without_tags.to_owned(),
    }
}

/// Language models break lines at will; a caption is one.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What was said to a prompt, on one line and without the prompt where it was repeated.
pub(super) fn said(answer: &str, prompt: &str) -> String {
    let said = one_line(answer);
    said.strip_prefix(&one_line(prompt)).unwrap_or(&said).trim_start().to_owned()
}

/// A seed that depends on the image and the try alone.
pub(super) fn seed_of(seed: u64, image_id: &str, attempt: Option<usize>) -> u64 {
    let attempt = attempt.map(|attempt| (attempt as u64).to_le_bytes());
    let seed = seed.to_le_bytes();
    let parts = [&seed[..], image_id.as_bytes()].into_iter().chain(attempt.as_ref().map(|a| &a[..]));
    key_of_digest(&digest::of_parts(parts))
}

#[cfg(test)]
mod tests {
    use manifests::spec::InstructBlipSpec;

    use super::*;

    #[test]
    fn the_default_prompt_is_the_papers() {
        let spec = InstructBlipSpec::default();
        let tags = Some("a school, surrounded by a service road");
        assert_eq!(
            prompt_of(&spec.prompt, &spec.prompt_without_tags, tags),
            "Please give a comprehensive and detailed description of the satellite image and its geographical tags: a \
             school, surrounded by a service road."
        );
        assert!(!prompt_of(&spec.prompt, &spec.prompt_without_tags, None).contains("tags"));
    }

    #[test]
    fn the_prompt_is_no_part_of_the_text() {
        let prompt = "Describe this zyzzyva image.";
        assert_eq!(said("Describe this zyzzyva image.\n  a road", prompt), "a road");
        assert_eq!(said(" a road\nand a river ", prompt), "a road and a river");
        assert_eq!(said("Describe this zyzzyva image.", prompt), "");
    }
}
