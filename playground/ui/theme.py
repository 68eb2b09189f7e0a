"""The page's colours, type and spacing: cool paper and pine. What Gradio's theme cannot say is in theme.css."""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils import colors, fonts, sizes


def _hue(name: str, shades: str) -> colors.Color:
    """shades: eleven, from the lightest to the darkest."""
    steps = ("50", "100", "200", "300", "400", "500", "600", "700", "800", "900", "950")
    return colors.Color(name=name, **{f"c{step}": f"#{one}" for step, one in zip(steps, shades.split(), strict=True)})


_PINE = _hue("pine", "E8F3F1 D3E9E5 A9D5CD 7CBFB4 46A297 1C8379 0B6B63 09564F 08443F 063430 03211E")
_INK = _hue("ink", "F4F7F6 E9EEED DAE2E0 BFCBC8 8B9A96 66756F 51605B 37443F 1E2926 151E1B 0D1412")

_SANS = (fonts.LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif")
_MONO = (fonts.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "Consolas", "monospace")

_SURFACES = {
    "body_background_fill": ("#F4F7F6", "#0D1412"),
    "background_fill_primary": ("#FFFFFF", "#151E1B"),
    "background_fill_secondary": ("#F4F7F6", "#111917"),
    "block_background_fill": ("#FFFFFF", "#151E1B"),
    "border_color_primary": ("#DAE2E0", "#2A3733"),
    "block_border_color": ("#DAE2E0", "#2A3733"),
    "block_shadow": ("none", "none"),
    "block_label_background_fill": ("transparent", "transparent"),
    "block_label_border_width": ("0px", "0px"),
    "color_accent_soft": ("#E8F3F1", "#12322E"),
}
_TEXT = {
    "body_text_color": ("#14201D", "#E6EEEB"),
    "body_text_color_subdued": ("#51605B", "#A3B3AE"),
    "block_label_text_color": ("#51605B", "#A3B3AE"),
    "block_title_text_color": ("#14201D", "#E6EEEB"),
    "block_info_text_color": ("#51605B", "#A3B3AE"),
    "link_text_color": ("#0B6B63", "#5CC4B7"),
}
_FIELDS = {
    "input_background_fill": ("#FFFFFF", "#0D1412"),
    "input_border_color": ("#7C8B87", "#6E7F79"),
    "input_border_width": ("1px", "1px"),
    "input_border_color_focus": ("*primary_600", "*primary_400"),
    "input_shadow_focus": ("0 0 0 3px rgba(11, 107, 99, .18)", "0 0 0 3px rgba(70, 162, 151, .3)"),
    "input_placeholder_color": ("#66756F", "#8B9A96"),
    "checkbox_background_color_selected": ("#0B6B63", "#5CC4B7"),
    "checkbox_border_color": ("#7C8B87", "#6E7F79"),
    "checkbox_label_background_fill_selected": ("#E8F3F1", "#12322E"),
    "checkbox_label_border_color_selected": ("#0B6B63", "#5CC4B7"),
    "checkbox_label_text_color_selected": ("#14201D", "#E6EEEB"),
    "slider_color": ("#0B6B63", "#5CC4B7"),
    "loader_color": ("#0B6B63", "#5CC4B7"),
}
_BUTTONS = {
    "button_border_width": ("1px", "1px"),
    "button_primary_background_fill": ("#0B6B63", "#5CC4B7"),
    "button_primary_background_fill_hover": ("#09564F", "#7AD2C7"),
    "button_primary_border_color": ("#0B6B63", "#5CC4B7"),
    "button_primary_text_color": ("#FFFFFF", "#03211E"),
    "button_primary_text_color_hover": ("#FFFFFF", "#03211E"),
    "button_secondary_background_fill": ("#FFFFFF", "#151E1B"),
    "button_secondary_background_fill_hover": ("#E8F3F1", "#1E2926"),
    "button_secondary_border_color": ("#7C8B87", "#6E7F79"),
    "button_secondary_text_color": ("#14201D", "#E6EEEB"),
    "button_cancel_background_fill": ("#FFFFFF", "#151E1B"),
    "button_cancel_background_fill_hover": ("#FBEBE9", "#2B1917"),
    "button_cancel_border_color": ("#A3281F", "#FF9C91"),
    "button_cancel_text_color": ("#A3281F", "#FF9C91"),
}


def build() -> gr.themes.Base:
    """Every pair is light, dark; contrasts are AA or better."""
    theme = gr.themes.Base(
        primary_hue=_PINE,
        secondary_hue=_PINE,
        neutral_hue=_INK,
        spacing_size=sizes.spacing_md,
        radius_size=sizes.radius_md,
        text_size=sizes.text_md,
        font=_SANS,
        font_mono=_MONO,
    )
    pairs = _SURFACES | _TEXT | _FIELDS | _BUTTONS
    light = {name: shade for name, (shade, _) in pairs.items()}
    return theme.set(
        **light,
        **{f"{name}_dark": shade for name, (_, shade) in pairs.items()},
        color_accent="#0B6B63",  # it has no dark value: theme.css sets that one
        layout_gap="12px",
        block_padding="12px",
        block_border_width="1px",
        block_title_text_weight="700",
        block_title_text_size="*text_sm",
        section_header_text_weight="700",
        chatbot_text_size="15px",
        input_shadow="none",
        button_large_text_size="15px",
        button_large_padding="9px 18px",
        # IBM Plex comes in the wheel whole in 400 and 700 only
        button_large_text_weight="700",
        button_medium_text_weight="700",
        button_small_text_weight="700",
    )
