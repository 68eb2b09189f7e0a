# The app alone, on a processor: docker build -t prompt-or-tune . && docker run -p 127.0.0.1:7860:7860 -v prompt-or-tune:/home/app/data prompt-or-tune
FROM python:3.11-slim
RUN useradd --create-home app && mkdir /home/app/data && chown app /home/app/data
WORKDIR /home/app/playground
COPY requirements.txt .
ARG EXTRA=""
RUN pip install --no-cache-dir -r requirements.txt ${EXTRA}
COPY --chown=app . .
USER app
ENV PLAYGROUND_HOME=/home/app/data GRADIO_SERVER_NAME=0.0.0.0 GRADIO_SERVER_PORT=7860 PLAYGROUND_LOG=json
VOLUME /home/app/data
EXPOSE 7860
HEALTHCHECK --start-period=120s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/healthz')"]
CMD ["python", "app.py"]
