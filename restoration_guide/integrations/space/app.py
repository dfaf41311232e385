"""The web page as a Hugging Face Space."""

from restoration_guide import AppConfig, launch_app

if __name__ == "__main__":
    launch_app(AppConfig(max_n=8, max_megapixels=2), host="0.0.0.0", port=7860)
