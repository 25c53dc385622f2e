from .chat_model import ChatBayesLoRA as ChatBayesLoRA
