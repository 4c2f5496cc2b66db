"""The miniature Stable Diffusion that ships with the repository; `README.md` beside this file is its model card."""
